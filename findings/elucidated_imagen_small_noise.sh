#!/usr/bin/env bash
# Version:  imagen-pytorch 2.1.0 (ElucidatedImagen), torch 2.13.0
# Guess:    The second network of a cascade gets the small image with some noise and is told how much: by the same
#           measure in sample() as in training, as Imagen of the same package does.
# Behavior: In training ElucidatedImagen tells the logarithm of the signal-to-noise ratio, in sample() it tells
#           lowres_sample_noise_level as it is. At the default, 0.2, the network is told 0.2 in place of 0.7, at 0.15 it
#           is told 0.15 in place of 1.4, and of an image without noise, 0.0 in place of 9.2, as if half of it were
#           noise. Of level 0.3 it is told less noise than there is. Nothing is said, and the loss does not show it, as
#           the training is right.
# Output:   the measured and the told value for noise of each level; see the lines after "expected" below. The small
#           image is white, so that its mean and deviation give the measured value. torchvision, kornia, T5 and the
#           trainer's packages are left out.
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
from imagen_pytorch import ElucidatedImagen, Imagen, Unet

torch.manual_seed(0)
WHITE = torch.ones(1, 3, 64, 64)
SIZES = {"image_sizes": (32, 64), "condition_on_text": False}
SMALL = {"dim": 8, "dim_mults": (1,), "num_resnet_blocks": 1, "layer_attns": False, "layer_cross_attns": False}


def pair(kind, **options):
    """Return a cascade of two networks, and the list of what the second is shown: measured and told values."""
    seen = []
    with contextlib.redirect_stdout(None):  # it advises larger networks
        cascade = kind((Unet(**SMALL), Unet(**SMALL, lowres_cond=True)), **SIZES, **options)
    forward = cascade.unets[1].forward

    def watched(*args, lowres_cond_img, lowres_noise_times, **kwargs):
        measured = 2 * (lowres_cond_img.mean() / lowres_cond_img.std()).log()
        seen.append((measured.item(), lowres_noise_times[0].item()))
        return forward(*args, lowres_cond_img=lowres_cond_img, lowres_noise_times=lowres_noise_times, **kwargs)

    cascade.unets[1].forward = watched
    return cascade, seen


cascade, seen = pair(ElucidatedImagen, num_sample_steps=2)
for _ in range(20):
    cascade(WHITE, unet_number=2)
near = [abs(measured - told) < 0.3 for measured, told in seen if measured > 0]
print(f"ElucidatedImagen in training: told as measured in {sum(near)} of {len(near)}")
for level in (0.0, 0.15, 0.2, 0.3):
    for kind, options in ((ElucidatedImagen, {"num_sample_steps": 2}), (Imagen, {"timesteps": 2})):
        cascade, seen = pair(kind, lowres_sample_noise_level=level, **options)
        cascade.sample(start_at_unet_number=2, start_image_or_video=WHITE, use_tqdm=False)
        measured, told = seen[0]
        print(f"{kind.__name__}, level {level}: measured {measured:.1f}, told {round(told, 2):.2f}")
PY
cat >"$folder/expected" <<'OUT'
ElucidatedImagen in training: told as measured in 12 of 12
ElucidatedImagen, level 0.0: measured 9.2, told 0.00
Imagen, level 0.0: measured 9.2, told 9.21
ElucidatedImagen, level 0.15: measured 1.4, told 0.15
Imagen, level 0.15: measured 1.4, told 1.38
ElucidatedImagen, level 0.2: measured 0.7, told 0.20
Imagen, level 0.2: measured 0.7, told 0.71
ElucidatedImagen, level 0.3: measured -0.4, told 0.30
Imagen, level 0.3: measured -0.4, told -0.38
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
