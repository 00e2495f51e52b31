#!/usr/bin/env bash
# Version:  denoising-diffusion-pytorch 2.3.4 (GaussianDiffusion), torch 2.13.0
# Guess:    GaussianDiffusion(network, immiscible=True) gives each image of a batch the noise that is near to it, as
#           immiscible diffusion proposes, and trains the network to find that noise.
# Behavior: The noise is reordered where it is added to the images, and the target keeps the old order: the network is
#           asked for the noise of another image of the batch, about which its input says nothing. So it is for
#           pred_noise and for pred_v, the default; pred_x0, whose target has no noise, is right. The best network for
#           such a loss predicts about nothing and does not denoise, without an error.
# Output:   for images whose pixels have a standard deviation of 0.3: how much of the target the best linear network
#           predicts in the middle of the schedule, and the deviation of the pixels that it draws; see the lines after
#           "expected" below. torchvision and the trainer's packages are left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scipy==1.17.1 einops==0.8.2 pillow==13.0.0 packaging \
	tqdm >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps denoising-diffusion-pytorch==2.3.4 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
from unittest.mock import MagicMock

import torch

for name in ("torchvision", "accelerate", "ema_pytorch", "pytorch_fid"):
    sys.modules[name] = MagicMock()
for name in ("pytorch_fid.inception", "pytorch_fid.fid_score"):
    sys.modules[name] = MagicMock()
from denoising_diffusion_pytorch import GaussianDiffusion

STEPS, SHAPE = 50, (64, 3, 8, 8)


class Linear(torch.nn.Module):
    """A network that predicts a multiple of its input, one for each timestep."""

    channels, out_dim, self_condition = 3, 3, False

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.zeros(STEPS))

    def forward(self, x, t, self_cond=None):
        return self.factor[t].view(-1, 1, 1, 1) * x


@torch.no_grad()
def best(objective, immiscible):
    """Fit the factors to the loss, a parabola in each; return the part of the target predicted and the deviation."""
    torch.manual_seed(0)
    network = Linear()
    options = {"image_size": 8, "timesteps": STEPS, "beta_schedule": "cosine", "auto_normalize": False}
    diffusion = GaussianDiffusion(network, objective=objective, immiscible=immiscible, **options)
    for t in range(STEPS):
        images, noise, times = 0.3 * torch.randn(SHAPE), torch.randn(SHAPE), torch.full(SHAPE[:1], t)
        losses = []
        for factor in (-1, 0, 1):
            network.factor[t] = factor
            losses.append(diffusion.p_losses(images, times, noise=noise.clone()).double())
        slope, curve = (losses[2] - losses[0]) / 2, (losses[2] + losses[0]) / 2 - losses[1]
        network.factor[t] = -slope / (2 * curve)
        if t == STEPS // 2:
            predicted = slope**2 / (4 * curve * losses[1])
    return predicted.item(), diffusion.sample(batch_size=64).std().item()


for objective in ("pred_noise", "pred_v", "pred_x0"):
    for immiscible in (False, True):
        predicted, deviation = best(objective, immiscible)
        print(f"{objective}, immiscible={immiscible}: predicts {predicted:.1f}, deviation {deviation:.1f}")
PY
cat >"$folder/expected" <<'OUT'
pred_noise, immiscible=False: predicts 0.9, deviation 0.3
pred_noise, immiscible=True: predicts 0.0, deviation 0.8
pred_v, immiscible=False: predicts 0.7, deviation 0.3
pred_v, immiscible=True: predicts 0.0, deviation 0.7
pred_x0, immiscible=False: predicts 0.1, deviation 0.3
pred_x0, immiscible=True: predicts 0.2, deviation 0.3
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
