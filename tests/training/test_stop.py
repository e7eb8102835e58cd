"""Signals set a flag that is checked at safe points; real signals to this process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from dit_lab.core.errors import StopRequested
from dit_lab.training.stop import LIKE_SIGTERM, StopSignal


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, object]]:
    """The handlers that the test finds; those before it are put back even where it fails."""
    caught = (signal.SIGTERM, signal.SIGINT, *LIKE_SIGTERM)
    before = {number: signal.getsignal(number) for number in caught}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it
    yield {number: signal.getsignal(number) for number in caught}
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


@pytest.mark.parametrize("number", LIKE_SIGTERM)
def test_what_terminals_and_queues_send_counts_as_sigterm(number: signal.Signals) -> None:
    with StopSignal() as stop:
        send(number)
        with pytest.raises(StopRequested) as raised:
            stop.check()
    assert raised.value.signal_number == signal.SIGTERM


def test_a_lost_terminal_is_ignored_where_it_was() -> None:
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignal() as stop:
        send(signal.SIGHUP)
        assert not stop.requested
        send(signal.SIGUSR2)
        assert stop.requested
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_later_ctrl_c_interrupts_at_once(
    first: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dit_lab.training.stop.SAME_SECONDS", 0.05)
    with StopSignal() as stop:
        send(first)
        send(signal.SIGINT)  # the same one
        time.sleep(0.1)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert stop.number == first


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
