"""The paper's two prompts for LLaVA, and the images that are shown with them (paper appendix B).

LLaVA-NeXT sees the whole image and a grid of crops of it. Only the whole image's tokens (576) are used, and for a small
pasted image those of the quarter of the frame that holds it.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera.pretrained.chat import Question
from tessera.records import Placement

PROMPT = "Describe this image"
"""For images as they are."""
MIX_PROMPT = (
    "Describe this image. Consider all the objects in the picture. Describe them, describe their position and their"
    " relation. Do not consider the image as a composite of images. The image is a single scene image"
)
"""For CutMix images."""
MAX_NEW_TOKENS = 200
"""Tokens of the longest caption."""


def make_question(image: NDArray[np.uint8], placement: Placement | None, side: int = 336) -> Question:
    """Return the paper's question about an image, `placement` being what CutMix pasted (None = nothing).

    side: of the captioner's crops in pixels.
    """
    if placement is None or not shows_quarter(placement):
        return Question(prompt_of(placement), (image,))
    return Question(prompt_of(placement), (image, quarter(image, quarter_of(placement), side)))


def shows_quarter(placement: Placement | None) -> bool:
    """Return whether the question shows a quarter of the frame too: that of a pasted image which does not span it."""
    return placement is not None and placement.pattern != "crop" and not placement.spans_frame


def prompt_of(placement: Placement | None) -> str:
    """Return the paper's prompt: a window of one image (`crop`) is no mix."""
    return PROMPT if placement is None or placement.pattern == "crop" else MIX_PROMPT


def quarter_of(placement: Placement) -> tuple[int, int]:
    """Return (row, column), 0 or 1, of the frame's quarter that overlaps the pasted box most; the first of equals."""
    left, top, right, bottom = placement.box
    middle = placement.size / 2
    widths = (max(min(right, middle) - left, 0), max(right - max(left, middle), 0))
    heights = (max(min(bottom, middle) - top, 0), max(bottom - max(top, middle), 0))
    return max(((row, column) for row in (0, 1) for column in (0, 1)), key=lambda at: heights[at[0]] * widths[at[1]])


def quarter(image: NDArray[np.uint8], at: tuple[int, int], side: int) -> NDArray[np.uint8]:
    """Return LLaVA-NeXT's own crop, uint8 (side, side, 3), cut out of the image scaled to twice the side."""
    doubled = Image.fromarray(image).resize((2 * side, 2 * side), Image.Resampling.BICUBIC)
    row, column = at
    return np.asarray(doubled.crop((column * side, row * side, (column + 1) * side, (row + 1) * side)))
