#!/usr/bin/env bash
# Version:  rectified-flow-pytorch 0.14.0 (RectifiedFlow), ema-pytorch 0.8.3, torch 2.13.0
# Guess:    RectifiedFlow(network, use_consistency=True) keeps an average of the weights: the training compares the
#           network's predictions with the average's, a little later in time, as Consistency-FM does, and
#           sample(use_ema=True) draws with the average.
# Behavior: The average is updated and never called: the method that calls a network, predict_flow, is told which one
#           and calls the trained one regardless. So the network is compared with itself, and sample gives the same
#           images with use_ema=True as without it, without an error: an experiment on the average finds no difference.
#           To draw with the average, put ema_model.ema_model in the place of the attribute model.
# Output:   a network whose prediction is its only weight, trained until the weight is 0.9 and its average 0.63: the
#           distance that sampling moved the noise, and the loss between two predictions of the velocity; see the lines
#           after "expected" below. torchvision, which is for the package's trainer and LPIPS, is left out.
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
from rectified_flow_pytorch import RectifiedFlow

torch.manual_seed(0)


class Network(torch.nn.Module):
    """A network that predicts the same velocity everywhere: its weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, times):
        return self.weight.expand_as(x)


network = Network()
flow = RectifiedFlow(
    network, use_consistency=True, ema_update_after_step=0, ema_kwargs={"update_every": 1}, data_shape=(3, 8, 8)
)
for step in range(10):
    network.weight.data.fill_(step / 10)
    flow.post_training_step_update()
average = flow.ema_model.ema_model


def moved(**how):
    noise = torch.randn(4, 3, 8, 8)
    return (2 * flow.sample(batch_size=4, noise=noise, **how) - 1 - noise).mean().item()


def loss():
    return float(flow(torch.rand(4, 3, 8, 8), return_loss_breakdown=True)[1].velocity_match)


print(f"weight {network.weight.item():.2f}, average {average.weight.item():.2f}")
print(f"moved by {moved(use_ema=False):.2f}, with use_ema=True {moved(use_ema=True):.2f}")
print(f"loss against the average {loss():.2f}, right {(network.weight - average.weight).square().item():.2f}")
flow.model = average
print(f"moved by {moved():.2f} with the average as the attribute model")
PY
cat >"$folder/expected" <<'OUT'
weight 0.90, average 0.63
moved by 0.90, with use_ema=True 0.90
loss against the average 0.00, right 0.07
moved by 0.63 with the average as the attribute model
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
