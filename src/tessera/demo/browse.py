"""A working folder to walk through: its images, boxes, captions and classes, searched by word; its runs and scores."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.curate.caption.caption import check_made_from
from tessera.curate.caption.table import Texts, read_levels
from tessera.curate.index import Composer, Entry, ImageRow, list_entries, read_images, read_recipe
from tessera.cutmix import CROP
from tessera.demo.studio import EXACT, notice
from tessera.images import data_uri, thumbnail
from tessera.records import Placement
from tessera.report.arms import KINDS, describe_arms, find_arms, loss_plot, scores_of, scores_part
from tessera.report.render import render
from tessera.stages import is_complete, read_manifest

PAGE = 24
"""Images shown at once."""
_THUMB = 192  # px; larger images are shown at this size
ALL = "all classes"
AS_IT_IS = "as it is"
ORDERS = (AS_IT_IS, "longest caption", "shortest caption", "smallest source")
"""Orders of a set's images; a caption is the longest of its levels."""


@dataclass(frozen=True)
class Captioned(Entry):
    """An image of a set with its captions."""

    captions: Texts = field(default_factory=dict)
    half_view: str = "aligned"
    """The recipe's, for a mixed one."""


class Browser:
    """The sets of a working folder: plain images, and mixed ones where there is a recipe. Read when first asked for."""

    def __init__(self, workspace: Path):
        self.workspace = Path(workspace)
        self._sets: dict[str, list[tuple[Captioned, str]]] = {}

    @cached_property
    def captions(self) -> dict[str, Path | None]:
        """The directory of captions of each set, by its name; "images" is the set without captions."""
        if not is_complete(self.workspace / "images"):
            return {}
        folder = self.workspace / "captions"
        found = [path for path in (folder, *sorted(folder.glob("*"))) if is_complete(path)]
        found.sort(key=lambda path: "recipe" in read_manifest(path).inputs)  # plain images first
        return {path.name: path for path in found} or {"images": None}

    @cached_property
    def rows(self) -> dict[str, ImageRow]:
        """The images, by key."""
        return {row.key: row for row in read_images(self.workspace / "images")}

    @cached_property
    def classes(self) -> list[str]:
        """The names of the classes, sorted."""
        return sorted({row.class_name for row in self.rows.values()})

    def find(self, name: str, words: str = "", class_name: str = ALL, order: str = AS_IT_IS) -> list[Captioned]:
        """Return the entries of a set with every one of `words` in its class and captions of all levels, upper and
        lower case alike, in an order of `ORDERS`."""
        if name not in self.captions:
            raise UserError(f"there is no set {name!r} in {self.workspace.name}; there are: {', '.join(self.captions)}")
        if name not in self._sets:
            entries = self._read(self.captions[name])
            self._sets[name] = [(e, " ".join([e.class_name, *e.captions.values()]).casefold()) for e in entries]
        wanted = words.casefold().split()
        found = [
            entry
            for entry, text in self._sets[name]
            if (class_name in ("", ALL) or class_name in entry.class_name.split(" + "))
            and all(word in text for word in wanted)
        ]
        if order == "smallest source":
            side = {row.file: min(row.width or 0, row.height or 0) for row in self.rows.values()}
            return sorted(found, key=lambda entry: side.get(entry.base, 0))
        if order not in ORDERS or order == AS_IT_IS:
            return found
        sign = -1 if order == "longest caption" else 1
        return sorted(found, key=lambda entry: sign * max(map(len, entry.captions.values()), default=0))

    def _read(self, captions: Path | None) -> list[Captioned]:
        if captions is None:
            return [Captioned(**vars(entry)) for entry in list_entries(list(self.rows.values()))]
        texts: dict[str, dict[str, str]] = {}
        for level, told in read_levels(captions).items():
            for key, text in told.items():
                texts.setdefault(key, {})[level] = text
        check_made_from(captions, "caption", {"images": self.workspace / "images"})
        if (made_of := read_manifest(captions).inputs.get("recipe")) is None:
            entries, half_view = list_entries([self.rows[key] for key in texts]), "aligned"
        else:
            folder = self.workspace / "recipe"  # or one of several in it, as the command lines of `tessera plan` say
            found = (path for path in sorted(folder.glob("*")) if is_complete(path))
            folder = next((path for path in found if read_manifest(path).sha256 == made_of), folder)
            check_made_from(captions, "caption", {"recipe": folder})
            recipe = read_recipe(folder)
            entries = list_entries(list(self.rows.values()), [mix for mix in recipe.rows if mix.key in texts])
            half_view = recipe.half_view
        return [Captioned(**vars(entry), captions=texts[entry.key], half_view=half_view) for entry in entries]

    def pixels(self, entry: Captioned) -> NDArray[np.uint8]:
        """Return the image, uint8 (S, S, 3). Raises UserError where a file is missing or damaged."""
        try:
            return Composer(self.workspace / "images", entry.half_view)(entry)
        except UserError:
            raise UserError(f"{entry.key}: is not a readable image; collect the images again") from None

    def cards(self, entries: Sequence[Captioned]) -> str:
        """Return the entries as markup, every text in it escaped."""
        return f'<ul class="cards">{"".join(self._card(entry) for entry in entries)}</ul>'

    def _card(self, entry: Captioned) -> str:
        name, key = (html.escape(value) for value in (entry.class_name, entry.key))
        several = len(entry.captions) > 1
        texts = [(f"<small>{html.escape(k)}</small> " * several, html.escape(v)) for k, v in entry.captions.items()]
        told = "".join(f'<p dir="auto">{level}{text}</p>' for level, text in texts)
        alt = texts[0][1] if texts else name
        box = about = ""
        if entry.placement is not None:
            box = "" if entry.placement.pattern == CROP else _box(entry.placement)
            about = f"<small>{html.escape(f'{entry.placement.pattern}, box {entry.placement.box}')}</small>"
        try:
            address = data_uri(thumbnail(self.pixels(entry), _THUMB), EXACT)
            image = f'<div class="shot"><img src="{address}" alt="{alt}" loading="lazy">{box}</div>'
        except UserError as error:
            image = notice(str(error))
        return f'<li>{image}<b dir="auto">{name}</b>{told}<small dir="auto">{key}</small>{about}</li>'


def _box(placement: Placement) -> str:
    left, top, right, bottom = placement.box
    return (
        f'<svg viewBox="0 0 {placement.size} {placement.size}" aria-hidden="true">'
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/></svg>'
    )


def show_runs(workspace: Path) -> str:
    """Return all runs/NAME and scores/NAME/KIND of `workspace`; what is damaged or missing is said instead."""
    names = find_arms(workspace, "runs", "scores")
    if not names:
        return notice("There are no runs in this working folder yet.")
    arms = describe_arms(names)
    logs = [(arm, workspace / "runs" / arm.name / "log.jsonl") for arm in arms]
    plot = loss_plot(logs, f"Training loss of {', '.join(arm.label for arm in arms)}")
    curves = f'<div class="plotcard">{plot}</div>' if plot else notice("No training has logged anything here yet.")
    try:
        found = {kind: scores_of(workspace, arms, kind) for kind in KINDS}
        part = scores_part(arms, found, workspace / "prompts")
        scores = render("scores_part.html.j2", part) if part else notice("Nothing was judged here yet.")
    except UserError as error:
        scores = notice(str(error))
    return f"<h2>Training loss</h2>{curves}<h2>Scores</h2>{scores}"


def find_workspace(export: Path) -> Path | None:
    """Return the working folder that an export lies in (WORKSPACE/export/NAME or WORKSPACE/export); None = none."""
    export = Path(export).resolve()
    for folder in (export.parent.parent, export.parent):
        if any((folder / name).is_dir() for name in ("images", "runs", "scores")):
            return folder
    return None
