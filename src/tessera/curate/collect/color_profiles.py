"""Colors as an image's own ICC profile means them: phones store Display P3, cameras Adobe RGB, printers CMYK.

Read as sRGB, such images are duller than people see them, by up to 60 of 255 levels.
"""

import functools
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of a profile -> Pillow's mode
_SAME = 2  # levels of 255 by which a profile may differ from sRGB and be taken for it


def rgb_of_inks(image: Image.Image) -> Image.Image | None:
    """Convert an 8-bit gray or CMYK image to sRGB, with alpha if it has some, by its profile; None without a fitting
    profile."""
    mode, transform = _transform(_profile_of(image))
    if transform is None or mode == "RGB" or mode != ("L" if image.mode in ("1", "L", "LA") else image.mode):
        return None
    if not image.has_transparency_data:
        return transform.apply(image.convert(mode))
    gray = image.convert("LA")
    rgb = transform.apply(gray.getchannel("L"))
    rgb.putalpha(gray.getchannel("A"))
    return rgb


def gray_ramp(image: Image.Image) -> NDArray[np.uint8] | None:
    """Return the colors of 65536 gray levels from black to white by the image's profile; None without one for gray."""
    mode, transform = _transform(_profile_of(image))
    return _ramp(_profile_of(image)) if transform is not None and mode == "L" else None


def corrected(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """Convert `rgb`, made of `image` as if that were sRGB, by its profile; without one for RGB return it as it is."""
    mode, transform = _transform(_profile_of(image))
    fits = mode == "RGB" and image.mode in ("RGB", "RGBA", "P", "PA")
    return transform.apply(rgb) if transform is not None and fits else rgb


def _profile_of(image: Image.Image) -> bytes:
    return bytes(image.info.get("icc_profile") or b"")


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, Any]:
    """Return Pillow's mode of a profile, and its transform to sRGB.

    None for no profile, a damaged one, and one that does what sRGB does: names say little, there is a "GIMP built-in
    Linear sRGB".
    """
    if not profile:
        return "", None
    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(source.profile.xcolor_space.strip(), "")
        transform = _to_srgb(source, mode) if mode else None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "", None
    if transform is not None and mode != "CMYK":
        steps = np.linspace(0, 255, 18 if mode == "RGB" else 256).round().astype(np.uint8)
        samples = Image.fromarray(
            np.stack(np.meshgrid(*[steps] * 3), -1).reshape(-1, 18, 3) if mode == "RGB" else steps[None]
        )
        change = np.asarray(transform.apply(samples)).astype(int) - np.asarray(samples.convert("RGB"))
        transform = transform if np.abs(change).max() > _SAME else None
    return mode, transform


@functools.lru_cache(maxsize=4)
def _ramp(profile: bytes) -> NDArray[np.uint8]:
    levels = Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256))
    return np.asarray(_to_srgb(ImageCms.ImageCmsProfile(io.BytesIO(profile)), "I;16").apply(levels)).reshape(-1, 3)


def _to_srgb(source: Any, mode: str) -> Any:
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
