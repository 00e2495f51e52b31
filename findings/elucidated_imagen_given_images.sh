#!/usr/bin/env bash
# Version:  imagen-pytorch 2.1.0 (ElucidatedImagen), torch 2.13.0
# Guess:    sample() takes images to keep in part (inpaint_images, inpaint_masks), and images to start from
#           (init_images), of which skip_steps=n leaves more, since drawing begins at the noise of step n. In both cases
#           the network is given the noise that it is told.
# Behavior: What is to be kept gets only the noise that a step adds: none without churn, and 0.7 of what the network is
#           told with the default churn. As the input is scaled down by the told noise, the network hardly sees what is
#           to be kept while it decides on the rest. Imagen of the same package adds all of it. And init_images get the
#           noise of the first step however many are skipped: after 4 of 8 the network is told 1.3 and has more
#           than 50 times that, of which it removes too little in the steps that are left. Nothing is said.
# Output:   of each step the told noise, and how many times that the halves of the image have, of which the left is kept
#           where one is; see the lines after "expected" below. The image is gray, so that deviation is noise. The
#           network is not trained, which adds some in the last steps; these are left out. torchvision, kornia, T5 and
#           the trainer's packages are left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 einops==0.8.2 beartype==0.23.1 pydantic==2.14.4 \
	pillow==13.0.0 packaging tqdm >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps imagen-pytorch==2.1.0 >/dev/null
cat >"$folder/try.py" <<'PY'
import contextlib
import sys
from unittest.mock import MagicMock

import torch

for name in ("torchvision", "kornia", "kornia.augmentation", "accelerate", "ema_pytorch", "pytorch_warmup"):
    sys.modules[name] = MagicMock()
for name in ("torchvision.transforms", "torchvision.utils", "transformers"):
    sys.modules[name] = MagicMock()
for name in ("datasets", "datasets.utils", "datasets.utils.file_utils"):
    sys.modules[name] = MagicMock()
from imagen_pytorch import ElucidatedImagen, Unet

torch.manual_seed(0)
GRAY = torch.full((1, 3, 64, 64), 0.5)
LEFT = torch.zeros(1, 64, 64, dtype=torch.bool)
LEFT[:, :, :32] = True
KEEP = {"inpaint_images": GRAY, "inpaint_masks": LEFT, "inpaint_resample_times": 1}
SMALL = {"dim": 8, "dim_mults": (1,), "num_resnet_blocks": 1, "layer_attns": False, "layer_cross_attns": False}


def show(said, churn=80, **how):
    """Draw in 8 steps, and print the noise that the network is told and that of the image's halves at each step."""
    with contextlib.redirect_stdout(None):  # it advises larger networks
        size = {"image_sizes": 64, "num_sample_steps": 8}
        imagen = ElucidatedImagen(Unet(**SMALL), condition_on_text=False, S_churn=churn, **size)
    forward, seen = imagen.unets[0].forward, []

    def watched(x, times, **kwargs):
        told = (4 * times[0]).exp()
        seen.append([told] + [half.std() * (told**2 + 0.25).sqrt() for half in x.chunk(2, dim=3)])
        return forward(x, times, **kwargs)

    imagen.unets[0].forward = watched
    imagen.sample(use_tqdm=False, **how)
    for told, *halves in seen[: 1 if "skip_steps" in how else 8 : 2]:  # each step's first, not that of its correction
        times = [f"{half / told:.1f}" if half < 50 * told else "over 50" for half in halves]
        print(f"{said}: told {told:.2g}, has {times[0]} and {times[1]} times that")


show("kept, no churn", churn=0, **KEEP)
show("kept, default churn", **KEEP)
show("no image", churn=0)
show("started from, 4 steps skipped", churn=0, init_images=GRAY, skip_steps=4)
PY
cat >"$folder/expected" <<'OUT'
kept, no churn: told 80, has 0.0 and 1.0 times that
kept, no churn: told 35, has 0.0 and 1.0 times that
kept, no churn: told 14, has 0.0 and 1.0 times that
kept, no churn: told 4.6, has 0.0 and 1.0 times that
kept, default churn: told 80, has 0.0 and 1.0 times that
kept, default churn: told 49, has 0.7 and 1.0 times that
kept, default churn: told 19, has 0.7 and 1.0 times that
kept, default churn: told 6.6, has 0.7 and 1.0 times that
no image: told 80, has 1.0 and 1.0 times that
no image: told 35, has 1.0 and 1.0 times that
no image: told 14, has 1.0 and 1.0 times that
no image: told 4.6, has 1.0 and 1.0 times that
started from, 4 steps skipped: told 1.3, has over 50 and over 50 times that
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
