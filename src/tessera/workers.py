"""Engines for the work on many images: this process, several processes, or a Ray cluster.

Work comes in shards. A shard's outcome is a file that appears whole or not at all, so running again resumes after any
stop: shards whose file is there are left out. The engine is no part of a stage's configuration.
"""

import contextlib
import functools
import logging
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from tessera.config import UserError
from tessera.devices import rank, world_size
from tessera.extras import missing
from tessera.files import read_json, remove_unfinished, write_json
from tessera.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Item], Result]  # on one shard
EngineKind = Literal["here", "processes", "ray"]

_MAX_PROCESSES = 16
# A GPU's driver: NVIDIA's, the one under WSL, AMD's. One of these is there if there is a GPU.
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Place where shards are worked on. Not recorded: any engine gives the same bytes."""

    kind: EngineKind = "here"
    """"here": this process; "processes": `workers` processes of this machine; "ray": a Ray cluster's actors."""
    workers: int | None = None
    """Processes or actors, 1 or more; None = one for each GPU, without GPUs one for each core."""
    address: str | None = None
    """Ray cluster, as `ray.init` takes it; None = one that RAY_ADDRESS names, or a new one on this machine."""
    part: tuple[int, int] | None = None
    """(i, n): the shards i, i + n, ... alone, 0 <= i < n, for one task of an array job; None = all."""

    def __post_init__(self):
        if self.kind not in get_args(EngineKind):
            raise UserError(f"engine must be {', '.join(get_args(EngineKind))}, not {self.kind!r}")
        if self.workers is not None and (self.workers < 1 or self.kind == "here"):
            raise UserError(f"workers is {self.workers}: give 1 or more, with the engine processes or ray")
        if self.address is not None and self.kind != "ray":
            raise UserError(f"address {self.address!r} is given, but the engine is {self.kind}: make it ray")
        if self.part is not None and not 0 <= self.part[0] < self.part[1]:
            raise UserError(f"shard is {self.part[0]}/{self.part[1]}: give i/n with 0 <= i < n, such as 0/8")

    def check_device(self, device: str | None) -> None:
        """Raise UserError for a GPU's number where each worker gets a GPU of its own, the only one that it sees."""
        kind, colon, number = (device or "").partition(":")
        if kind == "cuda" and colon and self.kind != "here":
            choice = f", or choose GPUs with CUDA_VISIBLE_DEVICES={number}" if self.kind == "processes" else ""
            raise UserError(
                f"--device {device}: with --engine {self.kind} each worker gets a GPU of its own; leave --device out"
                f"{choice}, or leave --engine out to work on {device} alone"
            )


HERE = Engine()


def parse_part(text: str | None) -> tuple[int, int] | None:
    """Parse "3/8" as (3, 8), the fourth of eight array tasks; None stays None."""
    match = re.fullmatch(r"(\d+)/(\d+)", text or "")
    if text is not None and match is None:
        raise UserError(f"shard is {text!r}: give i/n with 0 <= i < n, such as 0/8")
    return match and (int(match[1]), int(match[2]))


def run_shards(
    prepare: Callable[[], Work[Item, Result]], shards: Sequence[Item], engine: Engine
) -> "contextlib.AbstractContextManager[Iterator[Result]]":
    """Give an iterator over the work's result of each of `shards`, each as soon as it is there, in any order.

    `prepare` makes the work, in each worker once and when it gets its first shard: there it loads its networks. For
    the engines processes and ray, `prepare` and the shards must be picklable. `engine.part` is the caller's matter.
    Leaving the `with` block early waits for the shards being worked on (Ray's are stopped) and leaves the rest undone.
    Raises what the work raises, and UserError for a process that was killed; Ray starts killed workers again by itself.
    """
    engines: Any = {"here": _here, "processes": _on_processes, "ray": _on_ray}
    return engines[engine.kind](prepare, shards, engine)


@contextlib.contextmanager
def _here(prepare: Callable[[], Work], shards: Sequence[Any], engine: Engine) -> Iterator[Iterator[Any]]:
    yield map(prepare(), shards) if shards else iter(())


@contextlib.contextmanager
def _on_processes(prepare: Callable[[], Work], shards: Sequence[Any], engine: Engine) -> Iterator[Iterator[Any]]:
    count, visible = _gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if count and visible else [str(number) for number in range(count)]
    workers = min(engine.workers or count or usable_cores(), len(shards)) or 1
    with _pool(workers, _start_worker, prepare, _context().Value("i", 0), gpus) as pool:
        yield (future.result() for future in as_completed([pool.submit(_work_on, shard) for shard in shards]))


@contextlib.contextmanager
def _pool(workers: int, start: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    pool = ProcessPoolExecutor(workers, mp_context=_context(), initializer=start, initargs=arguments)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError("a worker process was killed, probably for want of memory; run again to resume") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: dict[str, Callable[[], Work]] = {}


def _start_worker(prepare: Callable[[], Work], counter: Any, gpus: list[str]) -> None:
    """Start a worker process: it sees one GPU, leaves Ctrl-C to its parent, and ends with it."""
    _follow_parent()
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    os.environ["TESSERA_QUIET"] = "1"  # the parent shows how far the whole is
    _worker["work"] = functools.cache(prepare)


def _work_on(shard: Any) -> Any:
    return _worker["work"]()(shard)


def _gpus() -> int:
    """Return the number of GPUs that this process may use; torch is asked only if there is a driver."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not any(map(os.path.exists, _DRIVERS)):
        return 0
    import torch

    return torch.cuda.device_count()


@contextlib.contextmanager
def _on_ray(prepare: Callable[[], Work], shards: Sequence[Any], engine: Engine) -> Iterator[Iterator[Any]]:
    """Run actors of a Ray cluster, each with a GPU if the cluster has some. Its machines must share the file system."""
    try:
        import ray
        from ray.exceptions import RayActorError, RayTaskError
        from ray.util import ActorPool
    except ImportError:
        raise missing("cluster", "engine ray") from None
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(engine.address, include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"engine ray: no cluster at {engine.address or 'this machine'}: {reason}") from error
    resources = ray.cluster_resources()
    gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    workers = max(min(engine.workers or gpus or cores, len(shards)), 1)
    options = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, "max_restarts": -1, "max_task_retries": -1}
    actors = [ray.remote(_Actor).options(**options).remote(prepare) for _ in range(workers)]
    try:
        yield ActorPool(actors).map_unordered(lambda actor, shard: actor.work.remote(shard), list(shards))
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
    except RayActorError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"engine ray: a worker could not continue: {reason}") from error
    finally:
        for actor in actors:
            ray.kill(actor)  # pyright: ignore
        if started:
            ray.shutdown()


class _Actor:
    """Worker on a Ray cluster."""

    def __init__(self, prepare: Callable[[], Work]):
        os.environ["TESSERA_QUIET"] = "1"
        self._work = functools.cache(prepare)

    def work(self, shard: Any) -> Any:
        return self._work()(shard)


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def map_chunks(
    function: Callable[[Sequence[Item]], Result], items: Sequence[Item], *, chunk: int = 64, parallel_from: int = 1024
) -> Iterator[Iterator[Result]]:
    """Give an iterator over `function` of each run of `chunk` items, in order, each as soon as it is there.

    From `parallel_from` items on and with more than one core, the chunks are spread over processes: starting them costs
    about half a second. `function` and the items must then be picklable, and `function` must be a module's.
    Leaving the `with` block early (an error, Ctrl-C) waits for the chunks that run and leaves the others undone.
    Raises UserError when a process dies, which is nearly always for want of memory.
    """
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    processes = min(usable_cores(), _MAX_PROCESSES, len(chunks))
    if processes < 2 or len(items) < parallel_from:
        yield map(function, chunks)
        return
    with _pool(processes, _follow_parent) as pool:
        yield pool.map(function, chunks)


def _context() -> Any:
    """Forking this process itself would copy the locks of its threads (progress bar, torch) in whatever state."""
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


def _follow_parent() -> None:
    """Leave Ctrl-C, which reaches the whole process group, to the parent, and end this process when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(3)  # a worker left over would write next to the next call's

    threading.Thread(target=end_with_parent, daemon=True).start()


def draw_ahead(items: Iterable[Item], ahead: int = 2) -> Generator[Item, None, None]:
    """Yield `items`, which a thread draws up to `ahead` before they are asked for; raise what they raise.

    Closing it ends the thread after the item that is being drawn.
    """
    drawn, end, pool = iter(items), object(), ThreadPoolExecutor(1)
    try:
        pending = deque(pool.submit(next, drawn, end) for _ in range(ahead))
        while (item := pending.popleft().result()) is not end:
            pending.append(pool.submit(next, drawn, end))
            yield item  # type: ignore[misc]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        if isinstance(drawn, Generator):
            drawn.close()


def work_through(
    directory: Path, count: int, work: Callable[[int], Any], *, description: str, unit: str = "prompts"
) -> list[Any] | None:
    """Return `work(number)` for each number below `count`; each result is a file, directory/NNNNN.json.

    Results that are there are not computed again. Under torchrun rank r of w does numbers r, r + w, ... and waits for
    nobody. The results are in order and as the files give them back; None while another rank's are missing.
    """
    paths = [directory / f"{number:05d}.json" for number in range(count)]
    own = range(rank(), count, world_size())
    todo = [number for number in own if not paths[number].is_file()]
    with progress(description, len(own), unit=unit, completed=len(own) - len(todo)) as bar:
        for number in todo:
            write_json(paths[number], work(number))
            bar.advance()
    if not all(path.is_file() for path in paths):
        return None
    if world_size() > 1:
        remove_unfinished(directory)
    return [read_json(path) for path in paths]
