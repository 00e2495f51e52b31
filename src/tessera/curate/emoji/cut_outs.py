"""Emoji cut out of their grounds, also in other hues: what a judge of drawings learns from."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera.curate.emoji.color_words import color_shares
from tessera.curate.emoji.concepts import read_concepts
from tessera.curate.emoji.styles import STYLES, drawings
from tessera.records import CutOuts

CUT_OUT_SIZE = 48
"""Pixels of a cut-out."""
HUES = 6
"""Hues in which a drawing is cut out, its own among them."""
_COLORED = 0.6  # share of a drawing that one color covers, for the drawing to have that color
_SEEN = 16  # pixels of a drawing of which the colors are measured, as it is in a scene


def cut_outs(names: Sequence[str], styles: Sequence[str]) -> CutOuts:
    """Return all emoji by the artists `styles`: those of `names` in `HUES` hues, others in their own.

    Raises UserError as `tessera.packages.fetch`.
    """
    wanted, concepts = set(names), read_concepts()
    found: list[tuple[NDArray[np.uint8], str, str | None, str, bool]] = []
    for style in styles:
        for concept, drawing in drawings(STYLES[style], concepts):
            cut = _tight(drawing)
            for turn in range(HUES if concept.name in wanted else 1):
                pixels = _turned(cut, turn / HUES)
                (color, share), *_ = color_shares(_shrunk(pixels)).items()
                found.append((pixels, concept.name, color if share >= _COLORED else None, style, turn == 0))
    pixels, labels, colors, of, own = zip(*found)
    return CutOuts(pixels=np.stack(pixels), names=labels, colors=colors, styles=of, own_hue=own)


def _tight(drawing: Image.Image) -> NDArray[np.uint8]:
    """Return the drawing without its margin, in the middle of a square: uint8 (S, S, 4)."""
    part = drawing.crop(drawing.getbbox())
    side = max(part.size)
    whole = Image.new("RGBA", (side, side))
    whole.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return np.asarray(whole.resize((CUT_OUT_SIZE, CUT_OUT_SIZE), Image.Resampling.LANCZOS))


def _shrunk(drawing: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a drawing of which every fourth pixel is one of `_SEEN` x `_SEEN`: what `color_shares` counts."""
    small = np.asarray(Image.fromarray(drawing).resize((_SEEN, _SEEN), Image.Resampling.BOX))
    return small.repeat(2, 0).repeat(2, 1)


def _turned(drawing: NDArray[np.uint8], turn: float) -> NDArray[np.uint8]:
    """Return a drawing with its hues turned, 0..1 being once around; grays stay."""
    if not turn:
        return drawing
    hsv = np.array(Image.fromarray(drawing[..., :3]).convert("HSV"))
    hsv[..., 0] += np.uint8(round(turn * 256))
    rgb = np.asarray(Image.fromarray(hsv, mode="HSV").convert("RGB"))
    return np.concatenate([rgb, drawing[..., 3:]], 2)
