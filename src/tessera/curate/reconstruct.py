"""reconstruct: what VAEs leave of a user's own images, in numbers and side by side.

No model can draw what its VAE cannot give back, so this is worth a look before `encode`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tessera.config import UserError, check_ranges
from tessera.curate.collect.crops import RejectedImage, square_crop
from tessera.curate.collect.layouts import find_source
from tessera.images import image_grid, write_png
from tessera.pretrained.vae import load_codec
from tessera.progress import progress
from tessera.stages import MANIFEST

SHOWN = 8
"""Rows of the contact sheet."""
_BATCH = 8  # images that are decoded between two signs of progress
LABEL_HEIGHT = 14  # pixels above the sheet, for the columns' names


@dataclass(frozen=True, kw_only=True)
class ReconstructConfig:
    """The images that are taken, and their size."""

    size: int = 256
    """Side of the square crops in pixels, >= 1."""
    count: int = 64
    """Images, taken evenly from all that are there, >= 1."""

    def __post_init__(self) -> None:
        check_ranges(self, size="[1, inf)", count="[1, inf)")


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Losses of one VAE on the images."""

    vae: str
    latent_shape: tuple[int, int, int]
    """(C, h, w) of an image's latents."""
    psnr: float
    """Mean over the images of the peak signal-to-noise ratio of the decoded posterior mean, in dB; 99 = the same."""
    worst_psnr: float
    """The lowest of an image."""
    worst: str
    """Key of the image that has it, `class/name`."""
    error: float
    """Mean absolute difference in gray levels, 0..255."""


def reconstruct(
    images: Path,
    vaes: Sequence[str],
    sheet: Path,
    config: ReconstructConfig = ReconstructConfig(),
    device: str | None = None,
) -> list[Reconstruction]:
    """Encode and decode images of the folder (or tar, Parquet file) `images` by each of `vaes`; write to `sheet` (.png)
    the originals and what each VAE makes of them, in rows from the worst image to the best.

    Raises UserError before anything is decoded for an unknown VAE, or one that does not take images of that size, and
    where no image can be read.
    """
    if sheet.suffix.lower() != ".png":
        raise UserError(f"{sheet}: the contact sheet is a PNG file; name it {sheet.with_suffix('.png')}")
    shapes = {vae: load_codec(vae, device, load=False).latent_shape(config.size) for vae in vaes}
    keys, originals = _crops(images, config, sheet)
    decoded, found = [], []
    for vae, shape in shapes.items():
        codec, parts = load_codec(vae, device), []
        with progress(f"doctor {vae}", len(originals)) as bar:
            for start in range(0, len(originals), _BATCH):
                parts.append(codec.decode(codec.encode(originals[start : start + _BATCH])[0]))
                bar.advance(len(parts[-1]))
        decoded.append(np.concatenate(parts))
        ratios = psnr(originals, decoded[-1])
        lowest = int(ratios.argmin())
        found.append(
            Reconstruction(
                vae=vae,
                latent_shape=shape,
                psnr=float(ratios.mean()),
                worst_psnr=float(ratios[lowest]),
                worst=keys[lowest],
                error=float(np.abs(originals.astype(np.int16) - decoded[-1]).mean()),
            )
        )
    order = np.mean([psnr(originals, each) for each in decoded], axis=0).argsort(kind="stable")
    rows = order[np.linspace(0, len(order) - 1, min(SHOWN, len(order))).round().astype(int)]
    tiles = np.stack([each[rows] for each in (originals, *decoded)], axis=1)  # (rows, columns, S, S, 3)
    columns = tiles.shape[1]
    write_png(sheet, _labeled(image_grid(tiles.reshape(-1, *tiles.shape[2:]), columns), ["original", *shapes]))
    return found


def psnr(images: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each pair of images (B, S, S, 3) in dB, at most 99: (B,)."""
    squares = (images.astype(np.float64) - others) ** 2
    return 10 * np.log10(255**2 / np.maximum(squares.mean(axis=(1, 2, 3)), 255**2 / 10**9.9))


def _crops(images: Path, config: ReconstructConfig, out: Path) -> tuple[list[str], NDArray[np.uint8]]:
    """Return the keys of up to `count` images of the source, evenly over it, and their crops (B, S, S, 3). An image
    that cannot be read is left out."""
    layout = "class-folders" if (images / MANIFEST).exists() else None  # made by collect
    source = find_source(images, out, single_class=images.resolve().stem, split="all", layout=layout)
    listed = [(group, item) for group in source.groups for item in group.list().items if item.reject is None]
    keys, crops = [], []
    for number in range(min(config.count, len(listed))):
        group, item = listed[number * len(listed) // min(config.count, len(listed))]
        try:
            with group.reader() as read:
                crops.append(square_crop(read(item), config.size).pixels)
        except RejectedImage:
            continue
        keys.append(item.key)
    if not crops:
        raise UserError(f"{images}: no image of it can be read; `tessera collect` says why")
    return keys, np.stack(crops)


def _labeled(sheet: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.uint8]:
    """Write a name above each of the sheet's columns, as much of its end as there is room for."""
    canvas = Image.new("RGB", (sheet.shape[1], sheet.shape[0] + LABEL_HEIGHT), "white")
    canvas.paste(Image.fromarray(sheet), (0, LABEL_HEIGHT))
    draw, width = ImageDraw.Draw(canvas), math.ceil(sheet.shape[1] / len(names))
    for column, name in enumerate(names):
        while name and draw.textlength(name) > width - 4:
            name = name[1:]
        draw.text((column * width, 1), name, fill="black")
    return np.asarray(canvas)
