"""The work behind the buttons draw and stop, as markup and data for the page: plain Python, without its library."""

import html
import itertools
import json
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tessera
from tessera.config import UserError
from tessera.demo.drawing import Drawer, Request, Update
from tessera.images import data_uri, write_png
from tessera.progress import duration_text
from tessera.report.arms import describe_arms
from tessera.weights.export import CaptionsSeen, read_settings

GALLERY = 64
"""Images in one visitor's gallery, at most."""
MAX_WAITING = 16
"""Drawings that wait for their turn; further ones are told that the queue is full."""
_TICK = 0.1  # seconds until somebody who waits is asked again whether to stop
_CAPTION = 90  # characters of the prompt under an image
SETTINGS_KEY = "tessera"
"""Keyword of the PNG text chunk that holds the settings, as JSON."""
EXACT = 64
"""Images of at most this side are shown without loss."""


@dataclass(frozen=True)
class Drawn:
    """An image of the gallery."""

    path: str
    settings: dict[str, Any]

    @property
    def caption(self) -> str:
        """The settings that draw the image again; the prompt cut short."""
        said = " ".join(self.settings["prompt"].split()) or "(empty prompt)"
        said = said if len(said) <= _CAPTION else said[: _CAPTION - 1] + "\u2026"
        told = "{model}, seed {seed}, {steps} steps, guidance {guidance_scale:g}".format(**self.settings)
        return f"{told} \u00b7 {said}"


@dataclass(frozen=True)
class Shown:
    """The page after an update."""

    status: str
    """Markup: progress, or a message."""
    preview: str = ""
    """Markup: the images as they are now."""
    new: list[Drawn] = field(default_factory=list)
    """New images for the gallery."""
    drawing: bool = False


class Line:
    """The drawings in front of one device: one at a time, first come first served; `most` may wait behind it."""

    def __init__(self, most: int):
        self.most = most
        self._places: list[object] = []
        self._changed = threading.Condition()

    @contextmanager
    def place(self) -> Iterator[Callable[[float], int]]:
        """Take a place at the end of the line, given up at the end of the block. Raises UserError: the line is full.

        Yields a function that waits until fewer are ahead, for at most so many seconds, and returns how many are.
        """
        place = object()

        def wait(seconds: float) -> int:
            with self._changed:
                before = self._places.index(place)
                self._changed.wait_for(lambda: self._places.index(place) < before, seconds if before else 0)
                return self._places.index(place)

        with self._changed:
            if len(self._places) > self.most:
                raise UserError(f"The queue is full: {self.most} drawings wait already. Try again in a minute.")
            self._places.append(place)
        try:
            yield wait
        finally:
            with self._changed:
                self._places.remove(place)
                self._changed.notify_all()


class Studio:
    """The models of a page, and the visitors who draw."""

    def __init__(self, drawers: Sequence[Drawer], folder: Path):
        """Take the models, and the folder for PNG files, which get a folder in it for each request."""
        names = [drawer.name for drawer in drawers]
        if len(set(names)) < len(names):  # two exports of one name, from different working folders
            names = [f"{drawer.export.resolve().parent.parent.name}/{drawer.name}" for drawer in drawers]
        if len(set(names)) < len(names):
            names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
        self.drawers = dict(zip(names, drawers))
        self.folder = Path(folder)
        self._line = Line(MAX_WAITING)
        self._numbers = itertools.count()
        self._stops: list[tuple[str, threading.Event]] = []

    @property
    def captions(self) -> CaptionsSeen | None:
        """The captions that the first model was trained on."""
        return read_settings(next(iter(self.drawers.values())).export).captions

    @property
    def choices(self) -> list[str]:
        """Each model, then the first two side by side."""
        names = list(self.drawers)
        return names + ([" and ".join(names[:2])] if len(names) > 1 else [])

    def stop(self, visitor: str) -> None:
        """Stop all drawings of this visitor."""
        for name, event in tuple(self._stops):
            if name == visitor:
                event.set()

    def draw(
        self,
        visitor: str,
        choice: str,
        *,
        near: Callable[[Sequence[NDArray[np.uint8]]], str] | None = None,
        **asked: Any,
    ) -> Iterator[Shown]:
        """Draw what is asked (the fields of Request) with one model, or two on the same noise, when it is its turn.

        Until then the updates say how many come before. near: markup about the finished images of a model, shown below
        them.
        """
        stop = visitor, event = visitor, threading.Event()
        self._stops.append(stop)
        try:
            yield from self._draw(choice, event, asked, near)
        except Exception as error:
            yield Shown(error_notice(error))
        finally:
            self._stops.remove(stop)

    def _draw(self, choice: str, stop: threading.Event, asked: dict[str, Any], near: Any) -> Iterator[Shown]:
        if choice not in self.choices:
            raise UserError(f"model: unknown {str(choice)[:60]!r}, there are: {', '.join(self.choices)}")
        names = [choice] if choice in self.drawers else list(self.drawers)[:2]
        request = Request(**asked)
        with self._line.place() as wait:
            told, ahead = 0, wait(0)
            while ahead and not stop.is_set():
                if ahead != told:
                    told = ahead
                    before = "1 drawing comes" if ahead == 1 else f"{ahead} drawings come"
                    yield Shown(status(f"Waiting: {before} before this one."), drawing=True)
                ahead = wait(_TICK)
            if ahead:
                yield Shown(notice("Stopped before it began."))
            else:
                yield from self._draw_now(names, request, stop, near)

    def _draw_now(self, names: Sequence[str], request: Request, stop: threading.Event, near: Any) -> Iterator[Shown]:
        images: dict[str, NDArray[np.uint8]] = {}
        preview, new = "", []
        for number, name in enumerate(names):
            drawer = self.drawers[name]
            for update in drawer.draw(request, stop):
                if update.images is not None:
                    images[name] = update.images
                    preview = self._preview(images, request.prompt)
                if update.state == "stopped":
                    yield Shown(notice(f"Stopped after step {update.step} of {update.total}."), preview, new)
                    return
                yield Shown(_progress(update, number, len(names)), preview, drawing=True)
            new += self._save(drawer, name, request, images[name])
        if near is not None:
            yield Shown(status("Looking for the nearest training images\u2026"), preview, drawing=True)
            preview = self._preview(images, request.prompt, near)
        notes = [self.drawers[name].prompt_note(request.prompt) for name in names]
        told = "".join(notice(note) for note in dict.fromkeys(notes) if note)
        yield Shown(told or status("Done."), preview, new)

    def _preview(self, images: dict[str, NDArray[np.uint8]], prompt: str, near: Any = None) -> str:
        """Return a row of images for each model as markup, in the colors that reports give the models; near: of
        `draw`."""
        alt, rows = html.escape(" ".join(prompt.split())[:300], quote=True), []
        colors = {arm.name: arm.color for arm in describe_arms(list(self.drawers))}
        for name, drawn in images.items():
            shown = "".join(f'<img src="{data_uri(pixels, EXACT)}" alt="{alt}">' for pixels in drawn)
            told = f'<figcaption dir="auto">{html.escape(name)}</figcaption>'
            below = near(drawn) if near is not None else ""
            rows.append(f'<figure class="arm-{colors[name]}">{told}<div>{shown}</div>{below}</figure>')
        return f'<div class="preview">{"".join(rows)}</div>'

    def _save(self, drawer: Drawer, name: str, request: Request, images: NDArray[np.uint8]) -> list[Drawn]:
        folder = self.folder / f"{next(self._numbers):06d}"
        saved = []
        for k, pixels in enumerate(images):
            settings: dict[str, Any] = asdict(request) | {"image": k, "model": name}
            settings |= {"export_sha256": drawer.digest, "tessera": tessera.__version__}
            path = folder / f"tessera-seed{request.seed}-{k}.png"
            # JSON is ASCII, whatever the prompt.
            write_png(path, pixels, text={SETTINGS_KEY: json.dumps(settings, sort_keys=True), "prompt": request.prompt})
            saved.append(Drawn(str(path), settings))
        return saved


def status(message: str) -> str:
    """Return news of the work as markup."""
    return f'<p role="status">{html.escape(message)}</p>'


def notice(message: str) -> str:
    """Return a message to the visitor as markup."""
    return f'<p class="notice" role="alert" dir="auto">{html.escape(message)}</p>'


def error_notice(error: Exception) -> str:
    """Return the message of an error as markup; the trace of a defect goes to the terminal, never onto the page."""
    if isinstance(error, UserError):
        return notice(str(error))
    traceback.print_exception(error, file=sys.stderr)
    return notice("Something went wrong in tessera; the terminal that runs the page says what.")


def _progress(update: Update, number: int, models: int) -> str:
    """Return progress over all models as markup, with the time left."""
    step, total = number * update.total + update.step, models * update.total
    left = update.seconds_left
    if left is not None and update.step:
        left += (models - 1 - number) * (left / max(update.total - update.step, 1)) * update.total
    time = "" if left is None else f", {duration_text(left)} left"
    return (
        f'<label class="progress">step {step} of {total}{time}'
        f'<progress value="{step}" max="{total}">{step}/{total}</progress></label>'
    )
