"""Engines for the work on many images: this process, several processes, or a Ray cluster (`ENGINES`).

Work comes in shards. A shard's outcome is a file that appears whole or not at all, so running again resumes after any
stop: shards whose file is there are left out. The engine is no part of a stage's configuration.
"""

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
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

MAX_PROCESSES = 16
DRIVER = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Files of a GPU's driver: NVIDIA's, the one under WSL, AMD's. One of them is there if there is a GPU."""

EngineKind = Literal["here", "processes", "ray"]
Work = Callable[[Item], Result]
"""Work on one shard."""

_KILLED = "a worker process was killed, probably for want of memory; run again to resume"


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
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise UserError(f"shard is {text!r}: give i/n with 0 <= i < n, such as 0/8")
    return int(match[1]), int(match[2])


def run_shards(
    prepare: Callable[[], Work[Item, Result]], shards: Sequence[Item], engine: Engine
) -> "contextlib.AbstractContextManager[Iterator[Result]]":
    """Give an iterator over the work's result of each of `shards`, each as soon as it is there, in any order.

    `prepare` makes the work, in each worker once and when it gets its first shard: there it loads its networks. For
    the engines processes and ray, `prepare` and the shards must be picklable. `engine.part` is the caller's matter.
    Leaving the `with` block early waits for the shards being worked on (Ray's are stopped) and leaves the rest undone.
    Raises what the work raises, and UserError for a process that was killed; Ray starts killed workers again by itself.
    """
    return ENGINES[engine.kind](prepare, shards, engine)


@contextlib.contextmanager
def _here(prepare: Callable[[], Work], shards: Sequence[Any], engine: Engine) -> Iterator[Iterator[Any]]:
    yield map(prepare(), shards) if shards else iter(())


@contextlib.contextmanager
def _on_processes(prepare: Callable[[], Work], shards: Sequence[Any], engine: Engine) -> Iterator[Iterator[Any]]:
    context = multiprocessing.get_context(_start_method())
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if _gpus() else []
    if gpus == [""]:
        gpus = [str(number) for number in range(_gpus())]
    start = (prepare, context.Value("i", 0), gpus)
    workers = min(engine.workers or _gpus() or usable_cores(), len(shards)) or 1
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=start)

    def results() -> Iterator[Any]:
        try:
            for future in as_completed([pool.submit(_work_on, shard) for shard in shards]):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(_KILLED) from error

    try:
        yield results()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: dict[str, Any] = {}


def _start_worker(prepare: Callable[[], Work], counter: Any, gpus: list[str]) -> None:
    """Start a worker process: it sees one GPU, leaves Ctrl-C to its parent, and ends with it."""
    _follow_parent()
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    os.environ["TESSERA_QUIET"] = "1"  # the parent shows how far the whole is
    _worker["prepare"] = prepare


def _work_on(shard: Any) -> Any:
    if "work" not in _worker:
        _worker["work"] = _worker["prepare"]()
    return _worker["work"](shard)


def _gpus() -> int:
    """Return the number of GPUs that this process may use; torch is asked only if there is a driver."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not any(map(os.path.exists, DRIVER)):
        return 0
    import torch

    return torch.cuda.device_count()


@contextlib.contextmanager
def _on_ray(prepare: Callable[[], Work], shards: Sequence[Any], engine: Engine) -> Iterator[Iterator[Any]]:
    """Run actors of a Ray cluster, each with a GPU if the cluster has some. Its machines must share the file system."""
    try:
        import ray
        from ray.exceptions import RayActorError, RayTaskError
    except ImportError:
        raise missing("cluster", "engine ray") from None
    started = not ray.is_initialized()
    if started:
        try:
            quiet = {"log_to_driver": False, "logging_level": logging.WARNING}
            ray.init(address=engine.address, include_dashboard=False, **quiet)
        except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"engine ray: no cluster at {engine.address or 'this machine'}: {reason}") from error
    resources = ray.cluster_resources()
    gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
    workers = max(min(engine.workers or gpus or cores, len(shards)), 1)
    options = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, "max_restarts": -1, "max_task_retries": -1}
    actors = [ray.remote(_Actor).options(**options).remote(prepare) for _ in range(workers)]

    def results() -> Iterator[Any]:
        remaining = iter(shards)
        running = {actor.work.remote(shard): actor for actor, shard in zip(actors, remaining)}  # pyright: ignore
        try:
            while running:
                (reference, *_), _ = ray.wait(list(running))
                actor = running.pop(reference)
                result = ray.get(reference)
                for shard in remaining:
                    running[actor.work.remote(shard)] = actor
                    break
                yield result
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        except RayActorError as error:
            raise UserError(
                f"engine ray: a worker could not continue: {str(error).strip().splitlines()[-1]}"
            ) from error

    try:
        yield results()
    finally:
        for actor in actors:
            ray.kill(actor)  # pyright: ignore
        if started:
            ray.shutdown()


class _Actor:
    """Worker on a Ray cluster."""

    def __init__(self, prepare: Callable[[], Work]):
        os.environ["TESSERA_QUIET"] = "1"
        self._prepare = prepare
        self._work: Work | None = None

    def work(self, shard: Any) -> Any:
        self._work = self._work or self._prepare()
        return self._work(shard)


ENGINES: dict[str, Callable[..., contextlib.AbstractContextManager[Iterator[Any]]]] = {
    "here": _here,
    "processes": _on_processes,
    "ray": _on_ray,
}


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
    processes = min(usable_cores(), MAX_PROCESSES, len(chunks))
    if processes < 2 or len(items) < parallel_from:
        yield map(function, chunks)
        return
    context = multiprocessing.get_context(_start_method())
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_follow_parent)
    try:
        yield pool.map(function, chunks)
    except BrokenProcessPool as error:
        raise UserError(_KILLED) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_method() -> str:
    """Forking this process itself would copy the locks of its threads (progress bar, torch) in whatever state."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def _follow_parent() -> None:
    """Leave Ctrl-C, which reaches the whole process group, to the parent, and end this process when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(3)  # a worker left over would write next to the next call's

    threading.Thread(target=end_with_parent, daemon=True).start()


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
