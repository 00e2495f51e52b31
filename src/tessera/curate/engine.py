"""Where the work on many pictures runs: in this process, or spread over processes."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tessera.config import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_PROCESSES = 16


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def map_chunks(
    function: Callable[[Sequence[Item]], Result], items: Sequence[Item], *, chunk: int = 64, parallel_from: int = 1024
) -> Iterator[Iterator[Result]]:
    """Gives an iterator over `function` of each run of `chunk` items, in order, each as soon as it is there.

    From `parallel_from` items on and with more than one core, the chunks are spread over processes: starting them costs
    about half a second. `function` and the items must then be picklable, and `function` must be a module's.
    Leaving the `with` block early (an error, Ctrl-C) waits for the chunks that run and leaves the others undone.
    Raises UserError when a process dies, which is nearly always for want of memory.
    """
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    processes = min(usable_cores(), MAX_PROCESSES, len(chunks))
    if processes < 2 or len(items) < parallel_from:
        yield map(function, chunks)
        return
    # Forking this process itself would copy the locks of its threads (progress bar, torch) in whatever state they are.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context(method), initializer=_leave_ctrl_c)
    try:
        yield pool.map(function, chunks)
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed, probably for want of memory; run again to go on") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_ctrl_c() -> None:
    """Ctrl-C reaches the whole process group: only the parent answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
