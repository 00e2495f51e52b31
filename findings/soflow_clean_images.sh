#!/usr/bin/env bash
# Version:  rectified-flow-pytorch 0.14.0 (SoFlow, NanoFlow), torch 2.13.0
# Guess:    SoFlow(network, model_output_clean=True) is for a network that predicts the clean image, which is easier to
#           learn than noise: the velocity is computed from it. NanoFlow(network, predict_clean=True) does that.
# Behavior: Time runs from the image to the noise in SoFlow, and the velocity is computed for the other direction, so
#           its sign is wrong. A network that predicts the clean image has a large loss, and what it draws is twice the
#           noise minus the image. The loss is 0 for a network that predicts twice its input minus the image: training
#           and drawing agree, so images come out, but the network learns to double the noise, which is what predicting
#           the image should avoid. Nothing is said. With model_output_clean=False the sign is right.
# Output:   two networks that know the only image of the training set: their loss, the distance of what they draw to the
#           image, and to twice the noise minus the image; see the lines after "expected" below. torchvision, which is
#           for the package's trainers, is left out.
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
from rectified_flow_pytorch.nano_flow import NanoFlow
from rectified_flow_pytorch.soflow import SoFlow

torch.manual_seed(0)
IMAGE = torch.rand(3, 8, 8)
NOISE = torch.randn(64, 3, 8, 8)


class Network(torch.nn.Module):
    """A network that predicts the image, or so many times its input minus the image."""

    def __init__(self, times):
        super().__init__()
        self.times = torch.nn.Parameter(torch.tensor(float(times)))

    def forward(self, x, *times, **more_times):
        return IMAGE.expand_as(x) if self.times == 0 else self.times * x - IMAGE


def report(said, flow, **how):
    loss = flow(IMAGE.expand(64, 3, 8, 8)).item()
    drawn = flow.sample(batch_size=64, noise=NOISE, **how)
    to_image, to_noise = (drawn - IMAGE).abs().mean(), (drawn - (2 * NOISE - IMAGE)).abs().mean()
    print(f"{said}: loss {'0' if loss < 1e-6 else 'above 1' if loss > 1 else loss}", end="")
    print(f", distance to the image {to_image:.1f}, to twice the noise minus it {to_noise:.1f}")


shape = {"data_shape": (3, 8, 8)}
report("NanoFlow, predicts the image", NanoFlow(Network(0), predict_clean=True, **shape))
report("SoFlow, predicts the image", SoFlow(Network(0), model_output_clean=True, **shape))
report("SoFlow, predicts 2 x - image", SoFlow(Network(2), model_output_clean=True, **shape))
report("SoFlow, predicts 2 x - image, 4 steps", SoFlow(Network(2), model_output_clean=True, **shape), steps=4)
PY
cat >"$folder/expected" <<'OUT'
NanoFlow, predicts the image: loss 0, distance to the image 0.0, to twice the noise minus it 1.9
SoFlow, predicts the image: loss above 1, distance to the image 1.9, to twice the noise minus it 0.0
SoFlow, predicts 2 x - image: loss 0, distance to the image 0.0, to twice the noise minus it 1.9
SoFlow, predicts 2 x - image, 4 steps: loss 0, distance to the image 0.0, to twice the noise minus it 1.9
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
