"""Buckets of aspect ratios: sizes of about one area, of which each image has the one that is most like it (as SDXL's).

An image's bucket is a function of its own width and height alone, so it has the same one in every stage and call.
"""

from collections.abc import Sequence

from tessera.config import UserError

STEP = 16
"""Multiple of pixels of all sides: 8 of a latent of Stable Diffusion's VAE, 2 latents of a patch."""
MOST_RATIO = 2.0
"""The longer side over the shorter one, at most."""
AREA = 1 / 16
"""Largest relative difference of a bucket's area from the square's."""
Size = tuple[int, int]
"""Width and height in pixels."""


def bucket_sizes(side: int) -> tuple[Size, ...]:
    """Return the buckets of about the area of a square of `side` px: the square first, then by their ratio.

    Raises UserError for a side that is no multiple of `STEP` or has no bucket but the square.
    """
    if side % STEP:
        raise UserError(f"size is {side}; buckets need a multiple of {STEP}, such as {max(side // STEP, 4) * STEP}")
    found = []
    for width in range(side + STEP, int(side * MOST_RATIO) + 1, STEP):
        height = round(side**2 / width / STEP) * STEP
        if height > 0 and width <= MOST_RATIO * height and abs(width * height / side**2 - 1) <= AREA:
            found += [(width, height), (height, width)]
    if not found:
        raise UserError(f"size is {side}, which has no bucket but the square; give 64 or more")
    return ((side, side), *sorted(found, key=lambda size: size[0] / size[1]))


def bucket_of(width: int, height: int, sizes: Sequence[Size]) -> int:
    """Return the number of the bucket whose aspect ratio is nearest to the image's, by their quotient."""

    def distance(number: int) -> float:
        w, h = sizes[number]
        return max(width * h / (w * height), w * height / (width * h))

    return min(range(len(sizes)), key=distance)
