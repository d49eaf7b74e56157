import os
import signal
import threading

import pytest

from pipeline.training.signals import stop_on_signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_its_handler_is_as_before_afterwards(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signal() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(10)
    assert signal.getsignal(number) is before


def test_other_threads_than_the_main_one_leave_signals_alone() -> None:
    handlers = []

    def work() -> None:
        with stop_on_signal() as stop:
            handlers.append((signal.getsignal(signal.SIGTERM), stop.is_set()))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [(before, False)]
