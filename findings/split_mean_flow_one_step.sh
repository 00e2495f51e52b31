#!/usr/bin/env bash
# Version:  rectified-flow-pytorch 0.14.0 (SplitMeanFlow, MeanFlow), torch 2.13.0
# Guess:    SplitMeanFlow(network).sample(steps=1) draws in one step, for which the method was made: from the noise
#           along the velocity that was trained. sample(noise=noise) starts from that noise, so that the images of one
#           step and of several can be compared.
# Behavior: In training time runs from the noise to the image, and one step is taken as if it ran from the image to the
#           noise, as in MeanFlow: the velocity is subtracted, and the image is as far from the noise as it should be,
#           in the opposite direction. With more steps, 2 by default, the direction is right, but sample makes new noise
#           in place of the one that it was given, here and in MeanFlow. Neither is said. For the images of given noise,
#           call slow_sample(noise=noise, steps=1): it is right for every number of steps.
# Output:   the network learns that each image is its noise plus 1: how far the drawn images are from the given noise,
#           on average, and whether that is so for each pixel; see the lines after "expected" below. torchvision, which
#           is for the package's trainers, is left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scipy==1.17.1 pillow==13.0.0 >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps rectified-flow-pytorch==0.14.0 accelerate==1.15.0 ema-pytorch==0.8.3 \
	einops==0.8.2 einx==0.4.3 torchdiffeq==0.2.5 x-unet==0.5.0 x-transformers==2.31.10 torch-einops-utils==0.2.0 \
	frozendict loguru packaging pyyaml safetensors tqdm >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
from unittest.mock import MagicMock

import torch

for name in ("torchvision", "torchvision.utils", "torchvision.models", "torchvision.transforms"):
    sys.modules[name] = MagicMock()
from rectified_flow_pytorch.mean_flow import MeanFlow
from rectified_flow_pytorch.split_mean_flow import SplitMeanFlow

torch.manual_seed(0)


class Network(torch.nn.Module):
    """A network that predicts the same velocity everywhere: its weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, times, lengths):
        return self.weight + 0 * x


def report(said, drawn):
    moved = drawn - noise
    print(f"  {said}: {moved.mean():.1f}, {'each pixel' if moved.std() < 0.01 else 'on average'}")


for kind in (MeanFlow, SplitMeanFlow):
    flow = kind(Network(), data_shape=(3, 32, 32))
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.05)
    for _ in range(200):
        noise = torch.randn(16, 3, 32, 32)
        optimizer.zero_grad()
        loss = flow(noise + 1, noise=noise)
        loss.backward()
        optimizer.step()
    print(f"{kind.__name__}, loss {loss.item():.2f}")
    for steps in (1, 2, 4):
        report(f"sample, steps={steps}", flow.sample(batch_size=16, noise=noise, steps=steps))
    report("slow_sample, steps=1", flow.slow_sample(batch_size=16, noise=noise, steps=1))
    report("slow_sample, steps=4", flow.slow_sample(batch_size=16, noise=noise, steps=4))
PY
cat >"$folder/expected" <<'OUT'
MeanFlow, loss 0.00
  sample, steps=1: 1.0, each pixel
  sample, steps=2: 1.0, on average
  sample, steps=4: 1.0, on average
  slow_sample, steps=1: 1.0, each pixel
  slow_sample, steps=4: 1.0, each pixel
SplitMeanFlow, loss 0.00
  sample, steps=1: -1.0, each pixel
  sample, steps=2: 1.0, on average
  sample, steps=4: 1.0, on average
  slow_sample, steps=1: 1.0, each pixel
  slow_sample, steps=4: 1.0, each pixel
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
