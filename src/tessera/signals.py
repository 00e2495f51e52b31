"""Signals that stop a process."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


def heeded(*names: str) -> list[signal.Signals]:
    """Return the signals of these names that the platform has, without a SIGHUP that nohup lets be ignored."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [each for each in numbers if each.name != "SIGHUP" or signal.getsignal(each) != signal.SIG_IGN]


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Turn SIGTERM, and the SIGHUP of a lost terminal, into KeyboardInterrupt, so that a stopped job cleans up as it
    does at Ctrl-C. SIGHUP does so once: the shell and the system may each send it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in heeded("SIGTERM", "SIGHUP")}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
