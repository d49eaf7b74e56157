"""ONNX Runtime alone, in one process without HTTP: the limit of any server. Started by `benchmarks.serving`
with the file.

Waits for lines `{"batch": 64, "seconds": 3}` and answers with calls, seconds, and p50 and p99 of a call, in
milliseconds.
"""

import json
import sys
import time

import numpy as np

from benchmarks.servers.session import open_session, predict


def main() -> None:
    """Work until the input ends."""
    session = open_session(sys.argv[1])
    print(json.dumps({"about": "ONNX Runtime in-process"}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        images = np.random.default_rng(1).integers(0, 256, (asked["batch"], 28, 28), np.uint8)
        predict(session, images)
        calls = []
        began = before = time.perf_counter()
        while before - began < asked["seconds"]:
            predict(session, images)
            after = time.perf_counter()
            calls.append(after - before)
            before = after
        p50, p99 = (1000 * np.percentile(calls, (50, 99))).tolist()
        print(json.dumps({"calls": len(calls), "seconds": before - began, "p50": p50, "p99": p99}), flush=True)


if __name__ == "__main__":
    main()
