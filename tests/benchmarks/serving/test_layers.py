"""What the profile by layer prints."""

from benchmarks.serving import layers
from benchmarks.serving.entrants import BODIES


def test_what_no_step_explains_is_the_rest() -> None:
    steps = {body: {"parsed": 2e-6, "ONNX Runtime": 100e-6} for body in BODIES}
    rows = layers.table(steps, dict.fromkeys(BODIES, 402e-6)).splitlines()
    assert (
        rows[0] == "| µs a request, one client | one image, JSON | one image, raw | 32 images, JSON | 32 images, raw |"
    )
    assert rows[3] == "| ONNX Runtime | 100 | 100 | 100 | 100 |"
    assert rows[4] == "| uvicorn, event loop, sockets: the rest | 300 | 300 | 300 | 300 |"
    assert rows[5] == "| all that the worker computes | 402 | 402 | 402 | 402 |"
