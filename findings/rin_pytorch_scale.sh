#!/usr/bin/env bash
# Version:  rin-pytorch 0.8.0 (GaussianDiffusion), torch 2.13.0
# Guess:    GaussianDiffusion(network, scale=0.5) trains with more noise, as is advised for larger images, and sample()
#           draws accordingly: a network that predicts exactly draws the images that it was trained on.
# Behavior: forward() adds noise to scale * sqrt(gamma) of an image, but both samplers take the network's answer as one
#           about sqrt(gamma) of it. For a scale below 1 the image that they compute from v, the default objective, is
#           another one than was predicted, at nearly every step. The loss is 0 and the drawn image is wrong, without an
#           error; with scale=1 it is exact.
# Output:   the loss of a network that knows its only training image, and the mean error of drawn images in levels of
#           255; see the lines after "expected" below. torchvision, which only the package's trainer uses, is left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0 ema-pytorch==0.8.3 einops==0.8.2 \
	beartype==0.23.1 pillow==12.3.0 tqdm numpy==2.4.6 >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps rin-pytorch==0.8.0 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
import types

import torch

sys.modules["torchvision"] = types.SimpleNamespace(transforms=None, utils=None)
from rin_pytorch import RIN, GaussianDiffusion

torch.manual_seed(0)
IMAGE = torch.rand(3, 32, 32)


class Exact(RIN):
    """A network that was trained on one image until its loss is 0."""

    def __init__(self, scale):
        torch.nn.Module.__init__(self)
        self.channels, self.image_size, self.scale = 3, 32, scale
        self.empty = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, time, image=None, latents=None, return_latents=False):
        gamma = self.schedule(time).view(-1, 1, 1, 1)
        signal, level = self.scale * gamma.sqrt(), (1 - gamma).sqrt()
        known = 2 * IMAGE - 1
        if self.scale < 1:  # the noisy image came divided by its standard deviation
            x = x * (signal**2 * known.var() + level**2).sqrt()
        noise = (x - signal * known) / level.clamp(min=1e-4)
        v = signal * noise - level * known
        return (v, torch.zeros(len(x), 1, 1)) if return_latents else v


for scale in (1.0, 0.7, 0.5):
    for use_ddim in (True, False):
        network = Exact(scale)
        diffusion = GaussianDiffusion(network, timesteps=100, scale=scale, use_ddim=use_ddim)
        network.schedule = diffusion.gamma_schedule
        loss = sum(diffusion(IMAGE.repeat(8, 1, 1, 1)).item() for _ in range(20)) / 20
        error = 255 * (diffusion.sample(batch_size=16) - IMAGE).abs().mean()
        print(f"scale {scale}, {'DDIM' if use_ddim else 'DDPM'}: loss {loss:.3f}, error {error:.0f}")
PY
cat >"$folder/expected" <<'OUT'
scale 1.0, DDIM: loss 0.000, error 0
scale 1.0, DDPM: loss 0.000, error 0
scale 0.7, DDIM: loss 0.000, error 12
scale 0.7, DDPM: loss 0.000, error 7
scale 0.5, DDIM: loss 0.000, error 31
scale 0.5, DDPM: loss 0.000, error 22
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
