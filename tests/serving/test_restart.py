"""A worker accepts connections when it has a model, but a service without a model answers its probes."""

import http.client
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.processes import wait_until
from tests.serving.asking import sentence
from tests.serving.model.poisons import loop_over


def test_killed_worker_is_replaced_without_a_refused_request(
    start_service: Callable[..., Any], model_file: Path
) -> None:
    with start_service(SERVING_MODEL=model_file, SERVING_WORKERS=2) as service:
        service.wait_for(200)

        def loads() -> int:
            return int(service.log.read_text().count("Model loaded: "))

        wait_until(lambda: loads() == 2, "both workers having a model")
        killing = True

        def connect(_: int) -> Counter[int]:
            statuses: Counter[int] = Counter()
            while killing:
                connection = http.client.HTTPConnection(urlsplit(service.url).netloc, timeout=60)
                try:
                    connection.request("POST", "/predict/raw", bytes(784), {"content-type": "application/octet-stream"})
                    statuses[connection.getresponse().status] += 1
                except (OSError, http.client.HTTPException):
                    statuses[0] += 1  # its worker was killed
                finally:
                    connection.close()
            return statuses

        with ThreadPoolExecutor(4) as clients:
            asking = [clients.submit(connect, index) for index in range(4)]
            try:
                for expected in (3, 4):
                    service.workers[0].kill()
                    wait_until(lambda expected=expected: loads() == expected, "the new worker having a model")  # type: ignore[misc]
                    time.sleep(1)  # requests reach the new worker
            finally:
                killing = False
            statuses = sum((future.result() for future in asking), Counter[int]())
        assert statuses.keys() <= {0, 200}
        assert statuses[200] > 100


def test_probes_are_answered_while_the_first_model_is_verified(
    start_service: Callable[..., Any], variant: Callable[..., Path]
) -> None:
    path = variant(loop_over("probabilities"))
    with start_service(SERVING_MODEL=path, SERVING_VERIFY_SECONDS=300) as service:
        assert service.client.get("/livez").status_code == 200
        answer = service.wait_for(503)
        assert f"no model is in service: verifying file {path} since 2" in sentence(answer)
    assert "Traceback" not in service.log.read_text()
