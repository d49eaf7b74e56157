"""The mix: each kind is a request that the service accepts, and each misbehaving client ends."""

import asyncio
from typing import Any

import pytest

from benchmarks.soak.client import OpenLoop
from benchmarks.soak.mix import make_mix, misbehave
from tests.serving.conftest import Service, service, start_service

__all__ = ["service", "start_service"]


def test_shares_add_up_to_one() -> None:
    assert sum(kind.share for kind in make_mix()) == pytest.approx(1)


def test_service_accepts_each_kind(service: Service) -> None:
    port = service.client.base_url.port
    assert port

    async def ask() -> dict[str, Any]:
        answers = {}
        for kind in make_mix():
            loop = OpenLoop(port, [kind])
            answers[kind.name] = (await loop.run_closed(1, 0.3)).statuses
            loop.close()
        return answers

    for name, statuses in asyncio.run(ask()).items():
        assert set(statuses) == {200}, name


def test_misbehaving_clients_leave_the_service_ready(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.soak.mix.SLOW_SECONDS", 0.5)
    assert service.client.base_url.port
    begun = asyncio.run(misbehave(service.client.base_url.port, 2, per_second=10))
    assert all(begun.values())
    assert service.client.get("/readyz").status_code == 200
