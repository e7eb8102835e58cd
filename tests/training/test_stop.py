"""Signals become a question that is asked at safe places; real signals to this very process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from dit_lab.core.errors import StopRequested
from dit_lab.training.stop import StopSignal


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, object]]:
    """The handlers before the test; put back even where it fails."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def test_nothing_happens_without_a_signal() -> None:
    with StopSignal() as stop:
        stop.check()
        assert not stop.requested


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_waits_for_the_question(number: signal.Signals) -> None:
    with StopSignal() as stop:
        send(number)
        survived = True  # neither died nor was interrupted
        assert stop.requested  # which the lease tells others
        with pytest.raises(StopRequested) as raised:
            stop.check()
        with pytest.raises(StopRequested):
            stop.check()  # asked again, the answer is the same
    assert survived
    assert raised.value.signal_number == number


def test_a_second_ctrl_c_interrupts_at_once() -> None:
    with StopSignal():
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_ctrl_c_after_sigterm_interrupts_at_once() -> None:
    with StopSignal():
        send(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_repeated_sigterm_is_patient() -> None:
    """Schedulers send several; none may cut the save short."""
    with StopSignal() as stop:
        for _ in range(3):
            send(signal.SIGTERM)
        with pytest.raises(StopRequested):
            stop.check()


@pytest.mark.parametrize("error", [None, StopRequested(15), ValueError()])
def test_the_old_handlers_come_back(handlers: dict[int, object], error: Exception | None) -> None:
    try:
        with StopSignal():
            assert signal.getsignal(signal.SIGTERM) != handlers[signal.SIGTERM]
            if error is not None:
                raise error
    except (StopRequested, ValueError) as raised:
        assert raised is error
    assert {number: signal.getsignal(number) for number in handlers} == handlers
