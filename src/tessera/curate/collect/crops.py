"""RGB crops of any image file, or the reason for rejecting it.

Images come from users, so every format trap is handled here once: truncated and empty files, other things named .jpg,
palettes, transparency, CMYK, 16 bits, rotation flags, animations, and files that unpack to gigabytes.
"""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tessera.config import UserError
from tessera.curate.buckets import Size, bucket_of
from tessera.curate.collect.color_profiles import corrected, gray_ramp, rgb_of_inks
from tessera.damage import decode_jpeg
from tessera.images import JPEG_COLORS, MAX_PIXELS, UNREADABLE, as_rgb, is_jpeg, open_image

_LONGEST = 16  # times what the crop shows: of a longer image only a part is scaled, or it would fill the memory

_ORIENTATION = 0x0112  # EXIF tag
_TURNS = "FLIP_LEFT_RIGHT ROTATE_180 FLIP_TOP_BOTTOM TRANSPOSE ROTATE_270 TRANSVERSE ROTATE_90"
_UPRIGHT = dict(enumerate([Image.Transpose[name] for name in _TURNS.split()], 2))  # orientation -> what undoes it


class RejectedImage(ValueError):
    """A file that gives no image. The message is the reason: a few words without the file's name."""


@dataclass(frozen=True)
class Crop:
    """A crop and the size of the image it was cut from."""

    pixels: NDArray[np.uint8]
    """(S, S, 3) RGB, of a bucket (H, W, 3)."""
    width: int
    """The whole image's, upright, in pixels."""
    height: int
    by_pillow: bool = False
    """True of a JPEG file that was to be read fast and that simplejpeg refuses."""


def square_crop(
    source: Path | bytes,
    size: int,
    *,
    upright: bool = True,
    fast: bool = False,
    gray_range: bool = False,
    buckets: Sequence[Size] = (),
) -> Crop:
    """Return the image in a file (or its bytes) with its shorter side scaled to `size` px, and of that the central
    square; or, with `buckets`, scaled to cover the one with the nearest aspect ratio, and the center of that size.

    The recipe of the published ImageNet pipelines, pixel for pixel: to RGB, Pillow's bicubic filter over the whole
    image, the long side rounded down, the center rounded to even. Transparency goes over white, gray and 16-bit
    images become RGB, an animation gives its first frame.
    upright: as viewers show it, first turned by its EXIF flag (Pillow turns TIFF files in any case), its colors those
    of its ICC profile. fast: JPEG files go through simplejpeg, which decodes them at the smallest eighth that still has
    `size` px, and only the square is scaled; pixels then differ a little.
    gray_range: see `tessera.images.as_rgb`. buckets: not with `fast`.
    Raises RejectedImage with the reason.
    """
    with _opened(source) as image:
        jpeg = is_jpeg(image)
        fast = fast and jpeg and image.mode != "CMYK"
        found = None
        if jpeg and (fast or upright):
            file: Any = image.fp  # type: ignore[attr-defined]  # JPEG files are read whole by open_image
            data = file.getvalue()
            smallest = {"min_height": size, "min_width": size} if fast else None
            color = "RGB" if fast else JPEG_COLORS[image.mode]
            found = decode_jpeg(data, color, lenient=not upright, smallest=smallest)
        if found is None or image.mode == "CMYK":
            image.load()  # before EXIF is read, where an error would be lost
        turn = _orientation(image) if upright else 1
        if fast and found is not None:
            square = _upright(_fast_square(found, size), turn)
        else:
            exact = image
            if found is not None and image.mode != "CMYK":
                exact = Image.fromarray(found[..., 0] if image.mode == "L" else found)
            inks = rgb_of_inks(image) if upright else None
            ramp = gray_ramp(image) if upright else None
            whole = inks or exact
            if whole is image or whole.mode != "RGB":  # else as_rgb would only copy it
                whole = as_rgb(whole, over_white=True, gray_range=gray_range, gray_ramp=ramp)
            whole = _upright(whole, turn)
            square = _exact_crop(whole, buckets[bucket_of(*whole.size, buckets)] if buckets else (size, size))
        if upright:
            square = corrected(square, image)
        return Crop(np.asarray(square), *_turned(image.size, turn), fast and found is None)


def image_size(source: Path | bytes, *, upright: bool = True) -> tuple[int, int]:
    """Return width and height of an image, from its header. Raises RejectedImage."""
    with _opened(source) as image:
        return _turned(image.size, _orientation(image) if upright else 1)


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return (size[1], size[0]) if orientation >= 5 else size


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _exact_crop(image: Image.Image, size: Size) -> Image.Image:
    (width, height), (wide, high) = image.size, size
    across = width * high > height * wide  # cut at its left and right
    shorter, longer = (height, width) if across else (width, height)
    fit, cut = (high, wide) if across else (wide, high)
    long_side = max(int(fit * longer / shorter), cut)
    start = round((long_side - cut) / 2)
    if longer * fit > _LONGEST * shorter * cut:  # a strip: only the part that the crop shows is scaled
        scale = longer / long_side
        part = (start * scale, (start + cut) * scale)
        box = (part[0], 0, part[1], shorter) if across else (0, part[0], shorter, part[1])
        return image.resize(size, Image.Resampling.BICUBIC, box=box)
    scaled = image.resize((long_side, fit) if across else (fit, long_side), Image.Resampling.BICUBIC)
    return scaled.crop((start, 0, start + wide, high) if across else (0, start, wide, start + high))


def _fast_square(pixels: NDArray[np.uint8], size: int) -> Image.Image:
    height, width = pixels.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    return square.resize((size, size), Image.Resampling.BICUBIC)


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[Image.Image]:
    """Open an image; turn what Pillow raises on a bad file into RejectedImage, without paths: the same everywhere."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of oddities; what matters it raises
            if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
                raise RejectedImage("empty file")
            with open_image(source) as image:
                yield image
    except RejectedImage:
        raise
    except UserError as error:  # without the plugin for its format
        raise RejectedImage(str(error)) from None
    except UnidentifiedImageError:
        suffix = source.suffix.lower() if isinstance(source, Path) else ""
        what = f"{suffix[1:]} files cannot be read" if suffix in UNREADABLE else "not an image, or an unknown format"
        raise RejectedImage(what) from None
    except Image.DecompressionBombError:
        raise RejectedImage(f"more than {MAX_PIXELS // 10**6} megapixels") from None
    except MemoryError:
        raise RejectedImage("does not fit in memory") from None
    except Exception as error:  # decoders raise many types on damaged files
        if isinstance(error, OSError) and error.strerror:
            raise RejectedImage(f"cannot be opened: {error.strerror}") from error
        text = str(error).lower()
        cut = "truncated" in text or "premature end" in text
        raise RejectedImage("truncated" if cut else "damaged") from error


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is missing or senseless, or the decoder turns the image.

    JPEG XL's own orientation wins over that of its EXIF, which pillow-jxl-plugin 1.3 leaves as it is, except in a JPEG
    file that was packed as JPEG XL.
    """
    if image.format == "TIFF" or (image.format == "JXL" and not getattr(image, "jpeg", False)):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1  # damaged EXIF data in a good image
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
