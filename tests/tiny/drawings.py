"""Cut-outs of three kinds of drawings by two artists: squares, squares with a hole, bars, in three colors."""

import numpy as np

from tessera.records import CutOuts

COLORS = {"red": (210, 40, 45), "green": (60, 150, 65), "blue": (35, 100, 210)}


def squares() -> CutOuts:
    """Full ones are named "square", those with a large hole "frame", flat ones "bar", diagonal halves "triangle"."""
    found = []
    for style in ("one", "two"):
        for name in ("square", "frame", "bar", "triangle"):
            for color, rgb in COLORS.items():
                pixels = np.zeros((48, 48, 4), np.uint8)
                pixels[..., :3], pixels[..., 3] = rgb, 255
                if name == "frame":
                    pixels[10:22, 10:38, 3] = 0
                elif name == "bar":
                    pixels[[*range(16), *range(32, 48)], :, 3] = 0
                elif name == "triangle":
                    pixels[..., 3] = np.tril(np.full((48, 48), 255, np.uint8))
                found.append((pixels, name, color, style))
    pixels, names, colors, styles = zip(*found)
    return CutOuts(pixels=np.stack(pixels), names=names, colors=colors, styles=styles, own_hue=(True,) * len(names))
