"""ONNX Runtime alone, in-process and without HTTP: the upper limit of any server.

`benchmarks.serving` starts it: `python -m benchmarks.serving.onnxruntime_limit MODEL`. It answers each input line
`{"batch": 64, "seconds": 3}` with the number of calls, the seconds, and p50 and p99 of a call in milliseconds.
"""

import json
import sys
import time

import numpy as np

from benchmarks.servers.session import open_session, predict


def main() -> None:
    """Answer until the input ends."""
    session = open_session(sys.argv[1])
    print(json.dumps({"about": "ONNX Runtime in-process"}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        images = np.random.default_rng(1).integers(0, 256, (order["batch"], 28, 28), np.uint8)
        predict(session, images)
        calls = []
        began = before = time.perf_counter()
        while before - began < order["seconds"]:
            predict(session, images)
            after = time.perf_counter()
            calls.append(after - before)
            before = after
        p50, p99 = (1000 * np.percentile(calls, (50, 99))).tolist()
        print(json.dumps({"calls": len(calls), "seconds": before - began, "p50": p50, "p99": p99}), flush=True)


if __name__ == "__main__":
    main()
