"""Signals are noted, in the process that asked for it and only there."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from utils.process.stop_signal import SIGNALS, StopSignal, outlive_the_first


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted(number):
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert not stop.asked
        os.kill(os.getpid(), number)
        assert stop.asked and stop.name == signal.Signals(number).name
    assert signal.getsignal(number) == before


def child_that_gets(number: int, count: int, prepare=lambda: None) -> int:
    """Exit code of a forked process that sends itself a signal so many times; 7: it lived on."""
    child = os.fork()
    if child == 0:
        prepare()
        for _ in range(count):
            os.kill(os.getpid(), number)
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_forked_children_end_as_ever():
    with StopSignal() as stop:
        for number in SIGNALS:
            assert child_that_gets(number, 1) == -number
        assert not stop.asked


def test_loaders_outlive_the_first():
    assert child_that_gets(signal.SIGTERM, 1, outlive_the_first) == 7
    assert child_that_gets(signal.SIGTERM, 2, outlive_the_first) == -signal.SIGTERM
    assert child_that_gets(signal.SIGUSR1, 3, outlive_the_first) == 7


def test_nothing_changes_outside_the_main_thread():
    before = [signal.getsignal(number) for number in SIGNALS]

    def work() -> None:
        with StopSignal():
            seen.extend(signal.getsignal(number) for number in SIGNALS)

    seen: list = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == before
