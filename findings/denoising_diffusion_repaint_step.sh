#!/usr/bin/env bash
# Version:  denoising-diffusion-pytorch 2.3.4 (denoising_diffusion_pytorch.repaint), torch 2.13.0
# Guess:    Inpainting by RePaint's resampling: at every resample_every-th step the image is given noise of
#           resample_jump steps again and denoised by as many, several times, so that what is drawn fits what is known.
# Behavior: All those steps, 2,000 of 3,000 by default, are made at t = resample_jump, whatever t it is: at t = 950 of
#           1,000 the network is told that an image of nearly pure noise is nearly clean. Nothing is said, and what is
#           known is right in the end. What is drawn is not: of the best network there is for images of independent
#           pixels it has three quarters of their deviation by default, and more than twice as much as they have with a
#           jump of 300. With resample=False it is right.
# Output:   the network's calls by t where there are several, and the deviation of the drawn pixels, which is 0.125 in
#           the data (of a range of 0 to 1); see the lines after "expected" below. torchvision and the packages of the
#           trainer are left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scipy==1.17.1 einops==0.8.2 pillow==13.0.0 packaging \
	tqdm >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps denoising-diffusion-pytorch==2.3.4 >/dev/null
cat >"$folder/try.py" <<'PY'
import contextlib
import io
import sys
from collections import Counter
from unittest.mock import MagicMock

import torch

for name in ("torchvision", "torchvision.transforms", "torchvision.utils", "accelerate", "ema_pytorch", "pytorch_fid"):
    sys.modules[name] = MagicMock()
for name in ("pytorch_fid.inception", "pytorch_fid.fid_score"):
    sys.modules[name] = MagicMock()
from denoising_diffusion_pytorch.repaint import GaussianDiffusion

torch.manual_seed(0)
KNOWN = torch.full((64, 1, 8, 8), 0.8)
MASK = torch.zeros(64, 1, 8, 8)
MASK[..., :4] = 1


class Network(torch.nn.Module):
    """The best network for images of independent pixels with mean 0 and deviation 0.25, of a range of -1 to 1."""

    channels = out_dim = 1
    self_condition = random_or_learned_sinusoidal_cond = False

    def forward(self, x, times, x_self_cond=None):
        self.calls[times[0].item()] += 1
        signal = self.alphas_cumprod[times].view(-1, 1, 1, 1)
        return signal.sqrt() * 0.0625 * x / (signal * 0.0625 + 1 - signal)


for said, how in {
    "no resampling": {"resample": False},
    "default": {},
    "jump 100": {"resample_jump": 100, "resample_iter": 1},
    "jump 300": {"resample_jump": 300, "resample_iter": 1},
}.items():
    network = Network()
    network.calls = Counter()
    diffusion = GaussianDiffusion(network, image_size=8, objective="pred_x0", beta_schedule="linear")
    network.alphas_cumprod = diffusion.alphas_cumprod
    with contextlib.redirect_stderr(io.StringIO()):
        images = diffusion.sample(batch_size=64, gt=KNOWN, mask=MASK, **how)
    several = {t: count for t, count in network.calls.items() if count > 1}
    print(f"{said}: {len(network.calls)} values of t, called more than once {several}", end="")
    print(f"; known pixels {images[..., :4].mean():.2f}, deviation of the drawn {images[..., 4:].std():.2f}")
PY
cat >"$folder/expected" <<'OUT'
no resampling: 1000 values of t, called more than once {}; known pixels 0.80, deviation of the drawn 0.12
default: 1000 values of t, called more than once {10: 2001}; known pixels 0.80, deviation of the drawn 0.09
jump 100: 1000 values of t, called more than once {100: 2001}; known pixels 0.80, deviation of the drawn 0.14
jump 300: 1000 values of t, called more than once {300: 6001}; known pixels 0.80, deviation of the drawn 0.29
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
