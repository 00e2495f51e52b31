"""Colors as an image's own ICC profile means them: phones store Display P3, cameras Adobe RGB, printers CMYK.

Read as sRGB, such images are duller than people see them, by up to 60 of 255 levels.
"""

import functools
import io
from typing import Any

from PIL import Image, ImageCms

_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of a profile -> Pillow's mode


def rgb_of_inks(image: Image.Image) -> Image.Image | None:
    """Convert a gray or CMYK image to sRGB by its profile; None without a profile for its kind of image."""
    mode, transform = _transform(bytes(image.info.get("icc_profile") or b""))
    return transform.apply(image) if transform is not None and mode == image.mode != "RGB" else None


def corrected(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """Convert `rgb`, made of `image` as if that were sRGB, by its profile; without one for RGB return it as it is."""
    mode, transform = _transform(bytes(image.info.get("icc_profile") or b""))
    fits = mode == "RGB" and image.mode in ("RGB", "RGBA", "P", "PA")
    return transform.apply(rgb) if transform is not None and fits else rgb


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, Any]:
    """Return Pillow's mode of a profile, and its transform to sRGB; None for no profile, sRGB's or a damaged one."""
    if not profile:
        return "", None
    try:
        source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _SPACES.get(source.profile.xcolor_space.strip(), "")
        if not mode or "sRGB" in (source.profile.profile_description or ""):
            return mode, None
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        return mode, ImageCms.buildTransform(source, target, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return "", None
