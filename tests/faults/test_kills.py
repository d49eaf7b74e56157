"""Commands are killed at a write to the store, or at a random moment, and repeated."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import SIZE
from tests.faults.store import Store
from tests.processes import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

KILLS = {"train": 6, "compare": 2, "publish": 4, "promote": 8, "rollback": 8}
if SIZE == "full":
    KILLS = {"train": 40, "compare": 15, "publish": 15, "promote": 30, "rollback": 30}
KILLED = -9
GATE = ["--subset", "tenth", "--significance", "0.000001", "--minimum-accuracy"]
TRAIN = ["train", "--recipe", "dense", *GATE, "0.5"]
COMPARE = ["compare", "--subset", "tenth", "--recipes", "dense"]


class Zygote:
    """The process that forks the commands."""

    def __init__(self, log: Path) -> None:
        self.log = log
        command = [sys.executable, "-m", "tests.faults.zygote"]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True
            )
        assert self._answer()["code"] == 0, log.read_text()

    def run(self, state: Path, *arguments: str, **kill: Any) -> dict[str, int]:
        order = {"arguments": [*arguments, "--state-dir", str(state)], "log": str(self.log), "kill": kill}
        assert self.process.stdin
        print(json.dumps(order), file=self.process.stdin, flush=True)
        return self._answer()

    def finish(self, state: Path, *arguments: str, code: int = 0) -> dict[str, int]:
        """Run a command to its end."""
        answer = self.run(state, *arguments)
        assert answer["code"] == code, self.log.read_text()[-3000:]
        return answer

    def _answer(self) -> dict[str, int]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        return dict(json.loads(line))


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    forking = Zygote(tmp_path_factory.mktemp("zygote") / "log")
    yield forking
    forking.process.kill()
    forking.process.communicate()


@pytest.fixture(scope="module")
def original(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with two versions: 1 is previous, 2 is champion."""
    state = tmp_path_factory.mktemp("original") / "var"
    for seed in ("1", "2"):
        zygote.finish(state, *TRAIN, "--seed", seed)
    Store(state).check()
    return state


@pytest.fixture
def store(original: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(original, tmp_path / "var"))


def plan(chance: random.Random, kills: int, calls: int, seconds: float) -> list[dict[str, Any]]:
    """Kills spread over all writes, before and after them, and a quarter at random moments."""
    at_random = kills // 4
    spread = [1 + (calls * place) // (kills - at_random) for place in range(kills - at_random)]
    planned: list[dict[str, Any]] = [
        {"call": min(calls, call + chance.randrange(2)), "moment": chance.choice(["before", "after"])}
        for call in spread
    ]
    planned += [{"seconds": chance.uniform(0.01, seconds)} for _ in range(at_random)]
    chance.shuffle(planned)
    return planned


def test_train(zygote: Zygote, store: Store, chance: random.Random, count: Callable[..., None]) -> None:
    started = time.monotonic()
    calls = zygote.finish(store.state, *TRAIN, "--seed", "9")["calls"]
    seconds, killed = time.monotonic() - started, 0
    for seed, kill in enumerate(plan(chance, KILLS["train"], calls, seconds), start=10):
        killed += zygote.run(store.state, *TRAIN, "--seed", str(seed), **kill)["code"] == KILLED
        zygote.finish(store.state, *TRAIN, "--seed", str(seed))
        store.check()
        assert store.aliases() == {"champion": seed - 6, "previous": seed - 7}, kill
    count("train killed and repeated", killed, 2 * KILLS["train"])


def test_compare(zygote: Zygote, store: Store, chance: random.Random, count: Callable[..., None]) -> None:
    started = time.monotonic()
    calls = zygote.finish(store.state, *COMPARE, "--seeds", "3")["calls"]  # two seeds are trained already
    seconds, killed = time.monotonic() - started, 0
    for seeds, kill in enumerate(plan(chance, KILLS["compare"], calls, seconds), start=4):
        killed += zygote.run(store.state, *COMPARE, "--seeds", str(seeds), **kill)["code"] == KILLED
        zygote.finish(store.state, *COMPARE, "--seeds", str(seeds))
        store.check()
        done = "SELECT run_uuid FROM runs WHERE name = 'comparison' AND status = 'FINISHED'"
        tables = [store.state / "artifacts" / run / "artifacts" / "comparison.csv" for (run,) in store.ask(done)]
        assert len(tables) == seeds - 2
        assert all(table.exists() for table in tables), kill
    count("compare killed and repeated", killed, 2 * KILLS["compare"])


def test_publish(zygote: Zygote, store: Store, chance: random.Random, count: Callable[..., None]) -> None:
    started = time.monotonic()
    calls = zygote.finish(store.state, *TRAIN, "--seed", "9")["calls"]
    seconds, killed = time.monotonic() - started, 0
    for seed, kill in enumerate(plan(chance, KILLS["publish"], calls, seconds), start=10):
        zygote.run(store.state, *TRAIN, "--seed", str(seed), **kill)  # leaves reports
        first = {"call": chance.randrange(1, 9), "moment": chance.choice(["before", "after"])}
        killed += zygote.run(store.state, "publish", *GATE, "0.5", **first)["code"] == KILLED
        zygote.finish(store.state, "publish", *GATE, "0.5")
        zygote.finish(store.state, *TRAIN, "--seed", str(seed))
        store.check()
        assert store.aliases() == {"champion": seed - 6, "previous": seed - 7}, kill
    count("publish killed and repeated", killed, 4 * KILLS["publish"])


def test_promote(zygote: Zygote, store: Store, chance: random.Random, count: Callable[..., None]) -> None:
    started = time.monotonic()
    calls = zygote.finish(store.state, "promote", "--version", "1", *GATE, "0.5")["calls"]
    seconds, killed = time.monotonic() - started, 0
    for kill in plan(chance, KILLS["promote"], calls, seconds):
        before = store.aliases()
        after = {"champion": before["previous"], "previous": before["champion"]}
        named = ["promote", "--version", str(after["champion"]), *GATE]
        killed += zygote.run(store.state, *named, "0.5", **kill)["code"] == KILLED
        promoted = store.aliases()["champion"] == after["champion"]
        minimum = chance.choice(["0.5", "1"])
        refused = minimum == "1" and not promoted
        zygote.finish(store.state, *named, minimum, code=int(refused))
        store.check()
        assert store.aliases() == (before if refused else after), kill
        assert store.tags(after["champion"])["promoted"] == str(not refused).lower(), kill
    count("promote killed and repeated", killed, 2 * KILLS["promote"])


def test_rollback(zygote: Zygote, store: Store, chance: random.Random, count: Callable[..., None]) -> None:
    for _ in range(2):  # the first ones write tags that stay
        zygote.finish(store.state, "rollback")
    started = time.monotonic()
    calls = zygote.finish(store.state, "rollback")["calls"]
    seconds, killed = time.monotonic() - started, 0
    for kill in plan(chance, KILLS["rollback"], calls, seconds):
        before = store.aliases()
        swapped = {"champion": before["previous"], "previous": before["champion"]}
        killed += zygote.run(store.state, "rollback", **kill)["code"] == KILLED
        done = store.aliases() == swapped  # then the next one goes back again
        zygote.finish(store.state, "rollback")
        store.check()
        assert store.aliases() == (before if done else swapped), kill
    count("rollback killed and repeated", killed, 2 * KILLS["rollback"])
