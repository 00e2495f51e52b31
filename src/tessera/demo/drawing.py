"""Requests of the page, checked and drawn step by step, so that somebody can watch and stop.

B = pictures of a request, S = picture side in pixels.
"""

import math
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.stages import read_manifest

if TYPE_CHECKING:
    from torch import Tensor

    from tessera.generate.pipeline import Pipeline

MAX_PROMPT = 20_000  # characters
MAX_COUNT = 8
MAX_STEPS = 1000
MAX_SEED = 2**32 - 1  # a browser's numbers hold it exactly
PREVIEWS = 8
"""Times that a drawing shows what it will become, at most."""
TICK = 0.1  # least seconds between two updates without a preview
SAMPLER = "ddim"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What somebody asks for. Whatever a browser may send is checked here; UserError."""

    prompt: str
    guidance_scale: float
    """w in uncond + w (cond - uncond), 0 to 100; 1 = off."""
    steps: int
    seed: int
    count: int
    """Pictures, 1 to MAX_COUNT; picture k is a function of (seed, k)."""

    def __post_init__(self):
        if not isinstance(self.prompt, str):
            raise UserError("prompt: is not a text")
        if len(self.prompt) > MAX_PROMPT:
            raise UserError(f"prompt: has {len(self.prompt):,} characters, give at most {MAX_PROMPT:,}")
        try:
            self.prompt.encode()
        except UnicodeEncodeError:
            raise UserError("prompt: is not valid Unicode, type it again") from None
        for name, low, high in (("steps", 1, MAX_STEPS), ("seed", 0, MAX_SEED), ("count", 1, MAX_COUNT)):
            value = getattr(self, name)
            if not _is_number(value) or value != int(value) or not low <= value <= high:
                raise UserError(f"{name}: {_shown(value)} is not a whole number from {low} to {high}")
            object.__setattr__(self, name, int(value))
        if not _is_number(self.guidance_scale) or not 0 <= self.guidance_scale <= 100:
            raise UserError(f"guidance: {_shown(self.guidance_scale)} is not a number from 0 to 100 (1 = off)")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:40]


@dataclass(frozen=True, kw_only=True)
class Update:
    """How far a drawing is."""

    step: int
    total: int
    seconds_left: float | None
    """None at the start, when nothing is known yet."""
    pictures: NDArray[np.uint8] | None
    """(B, S, S, 3): what the pictures will become or, at the end, are; None = as before."""
    state: str
    """ "drawing", "done" or "stopped"."""


class _Stopped(Exception):
    pass


class Drawer:
    """One export, loaded when it is first drawn with. Draws one request at a time."""

    def __init__(self, export: Path, device: str | None = None):
        self.export, self.device = Path(export), device
        self.name = self.export.resolve().name
        self.digest = read_manifest(self.export, ("export", "import-published")).sha256
        self._pipeline: Pipeline | None = None
        self._lock = threading.Lock()

    @property
    def pipeline(self) -> "Pipeline":
        """The loaded model. UserError where the export is damaged."""
        if self._pipeline is None:
            from tessera.generate.pipeline import Pipeline

            self._pipeline = Pipeline.load(self.export, self.device)
        return self._pipeline

    def cut_note(self, prompt: str) -> str:
        """What to tell about a prompt that is longer than the text encoder takes, or ""."""
        encoder = self.pipeline.text_encoder
        (count,) = encoder.count_tokens([prompt])
        if count <= encoder.max_tokens:
            return ""
        return f"The prompt has {count:,} tokens; the model read the first {encoder.max_tokens:,}."

    def draw(self, request: Request, stop: threading.Event) -> Iterator[Update]:
        """Draws until done or `stop` is set; ends with an update whose state says which.

        Leaving the iterator early stops the drawing too. Pictures are those of
        `tessera generate EXPORT PROMPT --seed S --per-prompt B`. Raises UserError.
        """
        updates: queue.Queue[Update | BaseException] = queue.Queue()
        left = threading.Event()
        worker = threading.Thread(target=self._work, args=(request, stop, left, updates), daemon=True)
        worker.start()
        try:
            while True:
                update = updates.get()
                if isinstance(update, BaseException):
                    raise update
                yield update
                if update.state != "drawing":
                    return
        finally:
            left.set()
            worker.join()

    def _work(
        self,
        request: Request,
        stop: threading.Event,
        left: threading.Event,
        updates: "queue.Queue[Update | BaseException]",
    ) -> None:
        step, every = 0, math.ceil(request.steps / PREVIEWS)
        began = told = time.monotonic()

        def after_step(done: int, total: int, x0: "Tensor") -> None:
            nonlocal step, told
            step = done
            if stop.is_set() or left.is_set():
                raise _Stopped
            now = time.monotonic()
            preview = done < total and done % every == 0
            if not preview and now - told < TICK:
                return
            told = now
            pictures = self.pipeline.decode(x0) if preview and x0.isfinite().all() else None
            seconds = (now - began) / done * (total - done)
            updates.put(Update(step=done, total=total, seconds_left=seconds, pictures=pictures, state="drawing"))

        try:
            with self._lock:
                if stop.is_set() or left.is_set():
                    raise _Stopped
                pipeline = self.pipeline
                began = told = time.monotonic()
                updates.put(Update(step=0, total=request.steps, seconds_left=None, pictures=None, state="drawing"))
                pictures = pipeline.images(
                    [request.prompt] * request.count,
                    [(0, k) for k in range(request.count)],
                    seed=request.seed,
                    steps=request.steps,
                    guidance_scale=request.guidance_scale,
                    sampler=SAMPLER,
                    callback=after_step,
                )
            updates.put(Update(step=step, total=step, seconds_left=0.0, pictures=pictures, state="done"))
        except _Stopped:
            updates.put(Update(step=step, total=request.steps, seconds_left=None, pictures=None, state="stopped"))
        except BaseException as error:  # raised again where the updates are read
            updates.put(error)


def find_rival(export: Path) -> Path | None:
    """Another finished export in the same folder, to draw side by side: the first by name."""
    export = Path(export).resolve()
    for path in sorted(export.parent.iterdir()):
        if path != export and (path / "manifest.json").is_file():
            manifest = read_manifest(path, must_be_complete=False)
            if manifest.complete and manifest.stage in ("export", "import-published"):
                return path
    return None
