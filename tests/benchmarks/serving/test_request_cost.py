"""The table of the cost of a request."""

from benchmarks.serving import request_cost
from benchmarks.serving.contenders import BODIES


def test_time_without_a_step_is_the_rest() -> None:
    steps = {body: {"parsed": 2e-6, "ONNX Runtime": 100e-6} for body in BODIES}
    rows = request_cost.table(steps, dict.fromkeys(BODIES, 402e-6)).splitlines()
    header = "| µs per request, one client | one image, JSON | one image, raw | 32 images, JSON | 32 images, raw |"
    assert rows[0] == header
    assert rows[3] == "| ONNX Runtime | 100 | 100 | 100 | 100 |"
    assert rows[4] == "| uvicorn, event loop, sockets: the rest | 300 | 300 | 300 | 300 |"
    assert rows[5] == "| total of the worker | 402 | 402 | 402 | 402 |"
