#!/usr/bin/env bash
# Version:  diffusers 0.42.1 (VaeImageProcessor, the image_processor of its pipelines), Pillow 12.3.0, torch 2.13.0
# Guess:    An image is resized as resample says, "lanczos" by default, whether it comes as a PIL image, as a NumPy
#           array or as a tensor from a data loader: all three are accepted, and the latents of one image are the same.
# Behavior: Arrays and tensors are resized by taking the nearest pixel, whatever resample says. To a quarter of the
#           size, one pixel of 16 is taken and 15 are left out: fine stripes become a black area, and noise keeps its
#           full strength. What the VAE then encodes, to cache latents or to start an img2img from, is another image
#           than for the PIL image of the same pixels. Nothing is said, and smooth images are nearly the same. Tensors
#           resized before the call, by torch.nn.functional.interpolate with antialias=True, are right.
# Output:   mean and standard deviation of levels of 255, of 512 x 512 images as 128 x 128 ones, where each pixel is the
#           mean of 16 and as the processor gives them; see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1 pillow==12.3.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import numpy as np
import torch
import torch.nn.functional as F
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

SIZE, SMALL = 512, 128
x = np.arange(SIZE)


def spread(values):
    return f"{values.mean():.0f} ± {values.std():.0f}"


for said, levels in {
    "gradient": x // 2,
    "stripes of one pixel": x % 2 * 255,
    "stripes of two pixels": x // 2 % 2 * 255,
    "noise": np.random.default_rng(0).integers(0, 256, (SIZE, SIZE)),
}.items():
    levels = np.broadcast_to(levels, (SIZE, SIZE))
    print(f"{said}: means {spread(levels.reshape(SMALL, 4, SMALL, 4).mean((1, 3)))}")
    image = np.repeat(levels.astype("uint8")[..., None], 3, axis=2)
    array = image.astype("float32") / 255
    tensor = torch.from_numpy(array).movedim(-1, 0)[None]
    for form, value in {
        "PIL": Image.fromarray(image),
        "NumPy": array[None],
        "tensor": tensor,
        "tensor, resized before": F.interpolate(tensor, (SMALL, SMALL), mode="bicubic", antialias=True).clamp(0, 1),
    }.items():
        found = []
        for resample in ("lanczos", "bilinear", "nearest"):
            small = VaeImageProcessor(resample=resample).preprocess(value, height=SMALL, width=SMALL)
            found.append(f"{resample} {spread((small[0, 0] + 1) / 2 * 255)}")
        print(f"  {form}:", ", ".join(found))
PY
cat >"$folder/expected" <<'OUT'
gradient: means 128 ± 74
  PIL: lanczos 128 ± 74, bilinear 128 ± 74, nearest 128 ± 74
  NumPy: lanczos 127 ± 74, bilinear 127 ± 74, nearest 127 ± 74
  tensor: lanczos 127 ± 74, bilinear 127 ± 74, nearest 127 ± 74
  tensor, resized before: lanczos 128 ± 74, bilinear 128 ± 74, nearest 128 ± 74
stripes of one pixel: means 128 ± 0
  PIL: lanczos 128 ± 1, bilinear 128 ± 1, nearest 0 ± 0
  NumPy: lanczos 0 ± 0, bilinear 0 ± 0, nearest 0 ± 0
  tensor: lanczos 0 ± 0, bilinear 0 ± 0, nearest 0 ± 0
  tensor, resized before: lanczos 128 ± 1, bilinear 128 ± 1, nearest 128 ± 1
stripes of two pixels: means 128 ± 0
  PIL: lanczos 128 ± 3, bilinear 128 ± 2, nearest 255 ± 0
  NumPy: lanczos 0 ± 0, bilinear 0 ± 0, nearest 0 ± 0
  tensor: lanczos 0 ± 0, bilinear 0 ± 0, nearest 0 ± 0
  tensor, resized before: lanczos 128 ± 2, bilinear 128 ± 2, nearest 128 ± 2
noise: means 128 ± 18
  PIL: lanczos 128 ± 17, bilinear 128 ± 12, nearest 128 ± 74
  NumPy: lanczos 127 ± 74, bilinear 127 ± 74, nearest 127 ± 74
  tensor: lanczos 127 ± 74, bilinear 127 ± 74, nearest 127 ± 74
  tensor, resized before: lanczos 128 ± 15, bilinear 128 ± 15, nearest 128 ± 15
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
