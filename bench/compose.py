"""CutMix images per second on one core, from the crops and the plain way: `python bench/compose.py [SECONDS]`.

The crops are those of `tessera collect`, read with `read_rgb`; the plain way decodes both original JPEG files with
Pillow (500 x 375, 0.11 MB as ImageNet's are on average), scales and crops them, and pastes. Both draw the same pairs
of 256 images at random, all four patterns in turn, in alternating rounds of one run, files being warm. Time is
that of the processor, which other programs do not lengthen much. Prints both rates and the median ratio.
"""

import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from PIL import Image

from tessera.curate.collect.crops import square_crop
from tessera.cutmix import PATTERNS, compose, placement_at, windows_of
from tessera.images import read_rgb, write_png

COUNT, SIZE = 256, 256


def photograph(seed: int) -> bytes:
    """Return a JPEG file of 500 x 375 with detail at every scale, as photographs have."""
    rng = np.random.default_rng(seed)
    sum_of_scales = np.full((375, 500, 3), 128.0)
    for side in (2, 4, 8, 16, 32, 64, 128, 256):
        noise = rng.normal(size=(side, side, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(noise[..., channel]).resize((500, 375), Image.Resampling.BICUBIC)
            sum_of_scales[..., channel] += 40 / side**0.3 * np.asarray(layer)
    file = io.BytesIO()
    Image.fromarray(np.clip(sum_of_scales, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=97)
    return file.getvalue()


def plain(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        scaled = image.convert("RGB").resize((int(SIZE * 500 / 375), SIZE), Image.Resampling.BICUBIC)
    left = round((scaled.width - SIZE) / 2)
    return np.asarray(scaled.crop((left, 0, left + SIZE, SIZE)))


def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        originals = [Path(name, f"{i}.jpg") for i in range(COUNT)]
        crops = [Path(name, f"{i}.png") for i in range(COUNT)]
        for i in range(COUNT):
            originals[i].write_bytes(photograph(i))
            write_png(crops[i], square_crop(originals[i], SIZE).pixels, fast=True)
        originals_mb, crops_mb = (sum(p.stat().st_size for p in paths) / COUNT / 1e6 for paths in (originals, crops))
        rng = np.random.default_rng(0)
        ways = {"plain": (originals, plain), "crops": (crops, read_rgb)}
        rates: dict[str, list[float]] = {way: [] for way in ways}
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pairs = rng.integers(COUNT, size=(100, 2))
            places = []
            for i in range(len(pairs)):
                pattern = PATTERNS[i % len(PATTERNS)]
                places.append(placement_at(pattern, SIZE, int(rng.integers(len(windows_of(pattern, SIZE))))))
            mixed = {}
            for way, (paths, read) in ways.items():
                start = time.process_time()
                mixed[way] = [compose(read(paths[a]), read(paths[b]), place) for (a, b), place in zip(pairs, places)]
                rates[way].append(len(pairs) / (time.process_time() - start))
            assert all(np.array_equal(one, other) for one, other in zip(*mixed.values()))
    ratios = [crops / plain for crops, plain in zip(rates["crops"], rates["plain"])]
    for way in ways:
        print(f"{way}: {statistics.median(rates[way]):.0f} images/s on one core")
    print(f"ratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)")
    print(f"file size: original {originals_mb:.3f} MB, crop {crops_mb:.3f} MB")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20)
