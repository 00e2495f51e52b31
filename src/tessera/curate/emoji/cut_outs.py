"""Emoji cut out of their grounds, also in other hues: what a judge of drawings learns from."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera.curate.emoji.color_words import color_shares
from tessera.curate.emoji.concepts import Concept, read_concepts
from tessera.curate.emoji.styles import STYLES, drawings
from tessera.records import CutOuts

CUT_OUT_SIZE = 48
"""Pixels of a cut-out."""
HUES = 6
"""Hues in which a drawing is cut out, its own among them."""
_OTHERS = 120  # emoji that are not to be found
_OTHER_FAMILIES = ("faces", "symbols", "hand", "finger", "buttons", "clothing", "tools", "office", "audio", "writing")
_COLORED = 0.5  # share of a drawing that one color covers, for the drawing to have that color


def cut_outs(names: Sequence[str], styles: Sequence[str]) -> CutOuts:
    """Return the emoji `names` by the artists `styles` in `HUES` hues, and others, without a name, in their own.

    Raises UserError as `tessera.packages.fetch`.
    """
    wanted, concepts = set(names), read_concepts()
    others = [c for c in concepts if c.name not in wanted and any(part in c.family for part in _OTHER_FAMILIES)]
    others = others[:: max(len(others) // _OTHERS, 1)]
    chosen = [c for c in concepts if c.name in wanted] + others
    found: list[tuple[NDArray[np.uint8], str | None, str | None, str, bool]] = []
    for style in styles:
        for concept, drawing in drawings(STYLES[style], chosen):
            cut = _tight(drawing)
            for turn in range(HUES if concept.name in wanted else 1):
                pixels = _turned(cut, turn / HUES)
                (color, share), *_ = color_shares(pixels).items()
                found.append((pixels, _name(concept, wanted), color if share >= _COLORED else None, style, turn == 0))
    pixels, labels, colors, of, own = zip(*found)
    return CutOuts(pixels=np.stack(pixels), names=labels, colors=colors, styles=of, own_hue=own)


def _name(concept: Concept, wanted: set[str]) -> str | None:
    return concept.name if concept.name in wanted else None


def _tight(drawing: Image.Image) -> NDArray[np.uint8]:
    """Return the drawing without its margin, in the middle of a square: uint8 (S, S, 4)."""
    part = drawing.crop(drawing.getbbox())
    side = max(part.size)
    whole = Image.new("RGBA", (side, side))
    whole.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return np.asarray(whole.resize((CUT_OUT_SIZE, CUT_OUT_SIZE), Image.Resampling.LANCZOS))


def _turned(drawing: NDArray[np.uint8], turn: float) -> NDArray[np.uint8]:
    """Return a drawing with its hues turned, 0..1 being once around; grays stay."""
    if not turn:
        return drawing
    hsv = np.array(Image.fromarray(drawing[..., :3]).convert("HSV"))
    hsv[..., 0] += np.uint8(round(turn * 256))
    rgb = np.asarray(Image.fromarray(hsv, mode="HSV").convert("RGB"))
    return np.concatenate([rgb, drawing[..., 3:]], 2)
