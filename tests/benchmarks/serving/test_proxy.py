"""The table of the proxy's cost."""

from benchmarks.harness.load import Load
from benchmarks.serving import proxy
from benchmarks.serving.contenders import BODIES


def test_ratio_is_that_of_neighbours_in_time() -> None:
    replica = [Load(requests, 1.0, 1.0, p99) for requests, p99 in ((1000, 3.0), (2000, 5.0), (4000, 4.0))]
    behind = [Load(requests, 1.0, 1.0, 9.0) for requests in (900, 1600, 2000)]
    table = proxy.table({("serve", BODIES[1], 16): replica, ("proxy", BODIES[1], 16): behind})
    assert table.splitlines()[2] == (
        "| one image, raw | 16 | 2,000 (1,000-4,000) | 1,600 (900-2,000) | 0.80 (0.50-0.90) | 4.0 | 9.0 |"
    )
