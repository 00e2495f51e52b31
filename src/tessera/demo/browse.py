"""The curated data of a working folder, to walk through: pictures, boxes, captions, classes; searched by word.

images/  recipe/  captions/  or  captions/NAME/
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError
from tessera.curate.caption.caption import check_made_from, read_captions
from tessera.curate.index import Composer, ImageRow, RecipeRow, list_entries, read_images, read_recipe
from tessera.cutmix import CROP
from tessera.images import data_uri, thumbnail
from tessera.stages import MANIFEST, read_manifest

PAGE = 24
"""Pictures shown at once."""
_THUMB = 192  # px; larger pictures are shown at this size
_EXACT = 64  # px; images of at most this side are shown without loss
ALL = "all classes"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One picture of a set."""

    key: str
    class_name: str
    """Of a mixed picture, both: "fox + wolf"."""
    caption: str
    mix: RecipeRow | None = None


class Browser:
    """The sets of a working folder: plain pictures, and mixed ones where there is a recipe. Read when first asked."""

    def __init__(self, workspace: Path):
        self.workspace = Path(workspace)
        self._sets: dict[str, list[tuple[Entry, str]]] = {}

    @cached_property
    def names(self) -> list[str]:
        """The sets, by the names of their captions' directories; "images" stands for pictures without captions."""
        if not _complete(self.workspace / "images"):
            return []
        folder = self.workspace / "captions"
        found = [path for path in (folder, *sorted(folder.glob("*"))) if _complete(path)]
        return [path.relative_to(folder).as_posix().replace(".", "captions", 1) for path in found] or ["images"]

    @cached_property
    def rows(self) -> dict[str, ImageRow]:
        return {row.key: row for row in read_images(self.workspace / "images")}

    @cached_property
    def classes(self) -> list[str]:
        return sorted({row.class_name for row in self.rows.values()})

    def find(self, name: str, words: str = "", class_name: str = ALL) -> list[Entry]:
        """The entries of a set that have every one of `words` in caption or class, upper and lower case alike."""
        wanted = words.casefold().split()
        return [
            entry
            for entry, text in self._entries(name)
            if (class_name in ("", ALL) or class_name in entry.class_name.split(" + "))
            and all(word in text for word in wanted)
        ]

    def _entries(self, name: str) -> list[tuple[Entry, str]]:
        if name not in self.names:
            raise UserError(f"there is no set {name!r} in {self.workspace.name}; there are: {', '.join(self.names)}")
        if name not in self._sets:
            entries = self._read(name)
            self._sets[name] = [(entry, f"{entry.class_name} {entry.caption}".casefold()) for entry in entries]
        return self._sets[name]

    def _read(self, name: str) -> list[Entry]:
        images = self.workspace / "images"
        if name == "images":
            return [Entry(key=key, class_name=row.class_name, caption="") for key, row in self.rows.items()]
        folder = self.workspace / "captions"
        captions = folder if name == "captions" else folder / name
        texts = read_captions(captions)
        check_made_from(captions, {"images": images})
        if "recipe" not in read_manifest(captions).inputs:
            return [Entry(key=key, class_name=self.rows[key].class_name, caption=text) for key, text in texts.items()]
        check_made_from(captions, {"recipe": self.workspace / "recipe"})
        return [self._mixed(mix, texts[mix.key]) for mix in self.recipe.rows if mix.key in texts]

    def _mixed(self, mix: RecipeRow, caption: str) -> Entry:
        both = dict.fromkeys(self.rows[key].class_name for key in (mix.base, mix.partner))
        classes = " + ".join(both)
        return Entry(key=mix.key, class_name=classes, caption=caption, mix=mix)

    @cached_property
    def recipe(self):
        return read_recipe(self.workspace / "recipe")

    def pixels(self, entry: Entry) -> NDArray[np.uint8]:
        """uint8 (S, S, 3). UserError where the file is missing or damaged."""
        mix = entry.mix
        rows = [self.rows[key] for key in ((mix.base, mix.partner) if mix else (entry.key,))]
        composer = Composer(self.workspace / "images", self.recipe.half_view if mix else "aligned")
        try:
            return composer(list_entries(rows, [mix] if mix else None)[0])
        except UserError:
            names = " or ".join(Path(str(row.file)).name for row in rows)
            raise UserError(f"{names}: is not a readable image; collect the images again") from None

    def cards(self, entries: Sequence[Entry]) -> str:
        """The entries as markup, every text in it escaped."""
        return f'<ul class="cards">{"".join(self._card(entry) for entry in entries)}</ul>'

    def _card(self, entry: Entry) -> str:
        text, name, key = (html.escape(value) for value in (entry.caption, entry.class_name, entry.key))
        box = _box(entry.mix) if entry.mix is not None and entry.mix.placement.pattern != CROP else ""
        try:
            address = data_uri(thumbnail(self.pixels(entry), _THUMB), _EXACT)
            picture = f'<div class="shot"><img src="{address}" alt="{text or name}" loading="lazy">{box}</div>'
        except UserError as error:
            picture = f'<p class="notice">{html.escape(str(error))}</p>'
        about = f"{entry.mix.placement.pattern}, box {entry.mix.placement.box}" if entry.mix is not None else ""
        about = f"<small>{about}</small>" if about else ""
        return (
            f'<li>{picture}<b dir="auto">{name}</b><p dir="auto">{text}</p><small dir="auto">{key}</small>{about}</li>'
        )


def _box(mix: RecipeRow) -> str:
    """The partner's box as a drawing over the picture."""
    left, top, right, bottom = mix.placement.box
    size = mix.placement.size
    return (
        f'<svg viewBox="0 0 {size} {size}" aria-hidden="true">'
        f'<rect x="{left}" y="{top}" width="{right - left}" height="{bottom - top}"/></svg>'
    )


def _complete(directory: Path) -> bool:
    return (directory / MANIFEST).is_file() and read_manifest(directory, must_be_complete=False).complete


def find_workspace(export: Path) -> Path | None:
    """The working folder that an export lies in (WORKSPACE/export/NAME or WORKSPACE/export); None = none."""
    export = Path(export).resolve()
    for folder in (export.parent.parent, export.parent):
        if any((folder / name).is_dir() for name in ("images", "runs", "scores")):
            return folder
    return None
