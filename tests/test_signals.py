"""Signals that stop a process."""

import os
import signal
import threading

import pytest

from tessera.signals import stopping


def test_stopping_turns_sigterm_into_keyboard_interrupt():
    before = signal.getsignal(signal.SIGTERM)

    def body():
        with stopping():
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()  # never returns: the handler raises

    with pytest.raises(KeyboardInterrupt):
        body()
    assert signal.getsignal(signal.SIGTERM) is before


def test_stopping_outside_the_main_thread_does_nothing():
    seen = []

    def body():
        with stopping():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
