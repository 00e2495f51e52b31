"""Requests of the page, checked and drawn step by step, so that somebody can watch and stop.

B = images of a request, S = image side in pixels.
"""

import math
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.diffusion.sampler import SAMPLERS
from tessera.stages import MANIFEST, read_manifest

if TYPE_CHECKING:
    from torch import Tensor

    from tessera.generate.pipeline import Pipeline

MAX_PROMPT = 20_000  # characters
MAX_COUNT = 8
MAX_STEPS = 1000
MAX_SEED = 2**32 - 1  # a browser's numbers hold it exactly
MAX_GUIDANCE = 100
PREVIEWS = 8
"""Times that a drawing shows what it will become, at most."""
TICK = 0.1  # least seconds between two updates without a preview


@dataclass(frozen=True, kw_only=True)
class Request:
    """A visitor's wish. Raises UserError for whatever else a browser may send."""

    prompt: str
    guidance_scale: float
    """w in uncond + w (cond - uncond), 0 to MAX_GUIDANCE; 1 = off."""
    steps: int
    seed: int
    count: int
    """Images, 1 to MAX_COUNT; image k is a function of (seed, k)."""
    sampler: str = "ddim"
    """A name in `tessera.diffusion.sampler.SAMPLERS`."""
    negative_prompt: str = ""
    """The text that guidance leads away from; "" = the empty text, as in training."""
    guidance_from: float = 0.0
    """Guidance acts from this t on, 0 (no noise) to 1 ..."""
    guidance_to: float = 1.0
    """... up to this one."""

    def __post_init__(self):
        for name in ("prompt", "negative_prompt"):
            text = getattr(self, name)
            if not isinstance(text, str) or len(text) > MAX_PROMPT:
                raise UserError(f"{name}: give a text of at most {MAX_PROMPT:,} characters")
            try:
                text.encode()
            except UnicodeEncodeError:
                raise UserError(f"{name}: is not valid Unicode, type it again") from None
        if self.sampler not in SAMPLERS:
            raise UserError(f"sampler: unknown {str(self.sampler)[:40]!r}, there are: {', '.join(SAMPLERS)}")
        whole_numbers = {"steps": (1, MAX_STEPS), "seed": (0, MAX_SEED), "count": (1, MAX_COUNT)}
        numbers = {"guidance_scale": (0, MAX_GUIDANCE), "guidance_from": (0, 1), "guidance_to": (0, 1)}
        for name, (low, high) in (whole_numbers | numbers).items():
            value, whole = getattr(self, name), name in whole_numbers
            number = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
            if not number or (whole and value != int(value)):
                shown = "nothing" if value is None else repr(value)[:40]
                raise UserError(f"{name}: {shown} is not a {'whole ' * whole}number from {low} to {high}")
            if whole:
                object.__setattr__(self, name, int(value))
        if self.guidance_from > self.guidance_to:
            raise UserError(f"guidance: acts from {self.guidance_from:g} to {self.guidance_to:g}; swap the two")


@dataclass(frozen=True, kw_only=True)
class Update:
    """The progress of a drawing."""

    step: int
    total: int
    seconds_left: float | None = None
    """None at the start, when nothing is known yet."""
    images: NDArray[np.uint8] | None = None
    """(B, S, S, 3): what the images will become or, at the end, are; None = as before."""
    state: Literal["drawing", "done", "stopped"] = "drawing"


class _Stopped(BaseException):  # no Exception, or a user's own sampler would be blamed for it
    pass


class Drawer:
    """An export, loaded when it is first drawn with. Draws one request at a time."""

    def __init__(self, export: Path, device: str | None = None):
        self.export, self.device = Path(export), device
        self.name = self.export.resolve().name
        self.digest = read_manifest(self.export, "export").sha256
        self._lock = threading.Lock()

    @cached_property
    def pipeline(self) -> "Pipeline":
        """The loaded model. Raises UserError where the export is damaged."""
        from tessera.generate.pipeline import Pipeline

        return Pipeline.load(self.export, self.device)

    def prompt_note(self, prompt: str) -> str:
        """Return a note on a prompt that is longer than the text encoder takes, or unlike the training's captions, or
        ""."""
        for count in self.pipeline.cut_prompts([prompt]).values():
            limit = self.pipeline.text_encoder.max_tokens
            return f"The prompt has {count:,} tokens; the model read the first {limit:,}."
        note = self.pipeline.unlike_captions([prompt])
        return f"{note[:1].upper()}{note[1:]}{'.' if note else ''}"

    def draw(self, request: Request, stop: threading.Event) -> Iterator[Update]:
        """Draw until done or `stop` is set; yield updates, the last one with the state that says which.

        Leaving the iterator early sets `stop`. Images are those of
        `tessera generate EXPORT PROMPT --seed S --per-prompt B`. Raises UserError.
        """
        updates: queue.Queue[Update | BaseException] = queue.Queue()
        worker = threading.Thread(target=self._work, args=(request, stop, updates), daemon=True)
        worker.start()
        try:
            while True:
                update = updates.get()
                if isinstance(update, BaseException):
                    raise update
                yield update
                if update.state != "drawing":
                    return
        except GeneratorExit:
            stop.set()
            raise
        finally:
            worker.join()

    def _work(self, request: Request, stop: threading.Event, updates: "queue.Queue[Update | BaseException]") -> None:
        total, step = request.steps, 0
        every = math.ceil(total / PREVIEWS)
        began = told = time.monotonic()

        def after_step(done: int, total: int, x0: "Tensor") -> None:
            nonlocal step, told
            step = done
            if stop.is_set():
                raise _Stopped
            now = time.monotonic()
            preview = done < total and done % every == 0
            if not preview and now - told < TICK:
                return
            told = now
            images = self.pipeline.decode(x0) if preview and x0.isfinite().all() else None
            seconds = (now - began) / done * (total - done)
            updates.put(Update(step=done, total=total, seconds_left=seconds, images=images))

        try:
            with self._lock:
                if stop.is_set():
                    raise _Stopped
                pipeline = self.pipeline
                began = told = time.monotonic()
                updates.put(Update(step=0, total=total))
                images = pipeline.images(
                    [request.prompt] * request.count,
                    [(0, k) for k in range(request.count)],
                    seed=request.seed,
                    steps=total,
                    guidance_scale=request.guidance_scale,
                    guidance_interval=(request.guidance_from, request.guidance_to),
                    sampler=request.sampler,
                    negative=request.negative_prompt,
                    callback=after_step,
                )
            updates.put(Update(step=total, total=total, seconds_left=0.0, images=images, state="done"))
        except _Stopped:
            updates.put(Update(step=step, total=total, state="stopped"))
        except BaseException as error:  # raised again where the updates are read
            updates.put(error)


def find_rival(export: Path) -> Path | None:
    """Return another finished export in the same folder, to draw side by side: the first by name."""
    export = Path(export).resolve()
    for path in sorted(file.parent for file in export.parent.glob(f"*/{MANIFEST}")):
        manifest = read_manifest(path, must_be_complete=False)
        if path != export and manifest.complete and manifest.stage == "export":
            return path
    return None
