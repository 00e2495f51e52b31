"""The training image nearest to each drawn one, by their pixels: is it a copy?"""

import html
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tessera.curate.index import ImageRow, read_images
from tessera.demo.studio import EXACT
from tessera.images import data_uri, read_rgb, thumbnail
from tessera.stages import is_complete

MOST = 20_000
"""Training images that are searched; of more the page does not offer it."""
_THUMB = 192  # px; larger images are shown at this size
_BATCH = 256


class NearImages:
    """The images of a working folder, as they are and mirrored, read when first asked for."""

    def __init__(self, workspace: Path):
        self._images = workspace / "images"

    @cached_property
    def rows(self) -> Sequence[ImageRow]:
        """The images; [] where there are none, or too many."""
        rows = read_images(self._images) if is_complete(self._images) else []
        return rows if len(rows) <= MOST else []

    @cached_property
    def _features(self) -> NDArray[np.float32]:
        parts = [self.rows[start : start + _BATCH] for start in range(0, len(self.rows), _BATCH)]
        return np.concatenate([_features([self._read(row) for row in part]) for part in parts])

    def _read(self, row: ImageRow) -> NDArray[np.uint8]:
        assert row.file is not None
        return read_rgb(self._images / row.file)

    def find(self, drawn: Sequence[NDArray[np.uint8]]) -> list[ImageRow]:
        """Return the nearest training image of each image, uint8 (H, W, 3)."""
        from tessera.evaluate.copies.distances import nearest_training

        views = [_features(drawn), _features([image[:, ::-1] for image in drawn])]
        return [self.rows[row] for row in nearest_training(views, self._features).rows]

    def markup(self, drawn: Sequence[NDArray[np.uint8]]) -> str:
        """Return the nearest training images in a row, with their classes."""
        shown = []
        for row in self.find(drawn):
            pixels = thumbnail(self._read(row), _THUMB)
            alt = html.escape(f"Nearest training image: {row.class_name}, {row.key}", quote=True)
            shown.append(f'<img src="{data_uri(pixels, EXACT)}" alt="{alt}" title="{alt}">')
        return f"<figure><figcaption>nearest training images</figcaption><div>{''.join(shown)}</div></figure>"


def _features(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    import torch

    from tessera.pretrained.features.pixels import Pixels

    encoder = Pixels()
    return encoder.features(torch.stack([encoder.prepare(np.ascontiguousarray(image)) for image in images]))
