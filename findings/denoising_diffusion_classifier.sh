#!/usr/bin/env bash
# Version:  denoising-diffusion-pytorch 2.3.4 (denoising_diffusion_pytorch.guided_diffusion), torch 2.13.0
# Guess:    sample(cond_fn=gradient) draws with classifier guidance: at each step the gradient of a classifier moves the
#           image, whatever sampling_timesteps is. 250 steps in place of 1,000 are only faster.
# Behavior: With fewer steps than the training has, which is DDIM, cond_fn is taken and never called: the images are
#           those without a classifier. With all 1,000 steps it is called only if guidance_kwargs is given as well, an
#           empty one if the function has no further arguments: without it, the images are again those without a
#           classifier. Nothing is said in either case, so a study of guidance finds that it has no effect.
# Output:   the mean level of drawn images, whose pixels have mean 128 and deviation 32, and how often the classifier,
#           which prefers bright ones, was called; see the lines after "expected" below. torchvision and the trainer's
#           packages are left out.
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
from unittest.mock import MagicMock

import torch

for name in ("torchvision", "accelerate", "ema_pytorch", "pytorch_fid"):
    sys.modules[name] = MagicMock()
for name in ("pytorch_fid.inception", "pytorch_fid.fid_score"):
    sys.modules[name] = MagicMock()
from denoising_diffusion_pytorch.guided_diffusion import GaussianDiffusion

torch.manual_seed(0)


class Network(torch.nn.Module):
    """The best network for images of independent pixels with mean 0 and deviation 0.25, of a range of -1 to 1."""

    channels = out_dim = 1
    self_condition = random_or_learned_sinusoidal_cond = False

    def forward(self, x, times, x_self_cond=None):
        signal = self.alphas_cumprod[times].view(-1, 1, 1, 1)
        return signal.sqrt() * 0.0625 * x / (signal * 0.0625 + 1 - signal)


calls = []


def brighter(x, times):
    calls.append(times)
    return torch.full_like(x, 4.0)


for steps in (1000, 500, 250):
    network = Network()
    diffusion = GaussianDiffusion(network, image_size=8, objective="pred_x0", sampling_timesteps=steps)
    network.alphas_cumprod = diffusion.alphas_cumprod
    print(f"{steps} steps:", end="")
    for said, how in {
        "without": {},
        "cond_fn": {"cond_fn": brighter},
        "cond_fn and guidance_kwargs": {"cond_fn": brighter, "guidance_kwargs": {}},
    }.items():
        calls.clear()
        with contextlib.redirect_stdout(io.StringIO()):
            level = diffusion.sample(batch_size=64, **how).mean().item() * 255
        level = next((f"about {known}" for known in (128, 245) if abs(level - known) < 5), f"{level:.0f}")
        print(f"{'' if said == 'without' else ','} {said} {level} ({len(calls)} calls)", end="")
    print()
PY
cat >"$folder/expected" <<'OUT'
1000 steps: without about 128 (0 calls), cond_fn about 128 (0 calls), cond_fn and guidance_kwargs about 245 (1000 calls)
500 steps: without about 128 (0 calls), cond_fn about 128 (0 calls), cond_fn and guidance_kwargs about 128 (0 calls)
250 steps: without about 128 (0 calls), cond_fn about 128 (0 calls), cond_fn and guidance_kwargs about 128 (0 calls)
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
