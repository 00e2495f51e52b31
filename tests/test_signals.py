"""Signals that stop a process."""

import os
import signal
import threading

import pytest

from tessera.signals import stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_stopping_turns_a_signal_into_keyboard_interrupt(number):
    before = signal.getsignal(number)

    def body():
        with stopping():
            os.kill(os.getpid(), number)
            signal.pause()  # never returns: the handler raises

    with pytest.raises(KeyboardInterrupt):
        body()
    assert signal.getsignal(number) is before


def test_a_second_sighup_does_not_break_the_clean_up():
    cleaned = []

    def body():
        with stopping():
            try:
                os.kill(os.getpid(), signal.SIGHUP)
            finally:
                os.kill(os.getpid(), signal.SIGHUP)
                cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        body()
    assert cleaned


def test_stopping_leaves_sighup_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_stopping_outside_the_main_thread_does_nothing():
    seen = []

    def body():
        with stopping():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
