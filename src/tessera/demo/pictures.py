"""Pictures for a page: PNG files with their settings inside, and pictures inside the page's text."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tessera.files import atomic_path

SETTINGS_KEY = "tessera"
"""Keyword of the PNG text chunk that holds the settings, as JSON."""
_LARGE = 64  # px; pictures above it go into the page as JPEG


def write_png(path: Path, pixels: NDArray[np.uint8], settings: Mapping[str, Any]) -> None:
    """uint8 (S, S, 3) to a PNG file with two texts in it: "tessera" (the settings as JSON) and "prompt"."""
    info = PngInfo()
    info.add_text(SETTINGS_KEY, json.dumps(dict(settings), sort_keys=True))  # ASCII, whatever the prompt
    info.add_itxt("prompt", str(settings["prompt"]).replace("\0", ""))
    with atomic_path(path, durable=False) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=info)


def read_settings(path: Path) -> dict[str, Any]:
    """What `write_png` put beside the pixels."""
    with Image.open(path, formats=("PNG",)) as image:
        image.load()
        return json.loads(image.info[SETTINGS_KEY])


def data_address(pixels: NDArray[np.uint8]) -> str:
    """uint8 (H, W, 3) as a data: address; small pictures exactly, larger ones as JPEG."""
    large = max(pixels.shape[:2]) > _LARGE
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG" if large else "PNG", **({"quality": 88} if large else {}))
    return f"data:image/{'jpeg' if large else 'png'};base64,{base64.b64encode(data.getvalue()).decode()}"
