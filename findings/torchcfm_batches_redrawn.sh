#!/usr/bin/env bash
# Version:  torchcfm 1.0.7 (ExactOptimalTransportConditionalFlowMatcher), pot 0.9.7.post1, torch 2.13.0
# Guess:    The matcher gives each image of a batch the noise that is near to it: exact optimal transport between
#           equally many images and noises is a permutation, so each image is trained once, with another noise than the
#           one it came with. torch.manual_seed makes two runs the same, as it does for the independent matcher.
# Behavior: As many pairs as the batch is large are drawn from that permutation with replacement. 37% of the images of a
#           batch are left out, and others come several times: an epoch over a small set trains on less than two thirds
#           of it, and of a batch of one image of each class, more than a third of the classes are missing. And the
#           pairs are drawn by NumPy's global generator: with torch.manual_seed alone the times are the same in two
#           runs, and the images differ. Nothing is said. OTPlanSampler("exact").sample_plan(noise, images,
#           replace=False), before the independent matcher, gives each image once.
# Output:   the different images in a batch, on average and as a share, and what is equal in two runs of one seed; see
#           the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scipy==1.17.1 pot==0.9.7.post1 >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps torchcfm==1.0.7 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
from unittest.mock import MagicMock

import torch

for name in ("torchdyn", "torchdyn.core", "torchvision", "pytorch_lightning", "matplotlib", "matplotlib.pyplot"):
    sys.modules[name] = MagicMock()
from torchcfm.conditional_flow_matching import ExactOptimalTransportConditionalFlowMatcher
from torchcfm.optimal_transport import OTPlanSampler

matcher = ExactOptimalTransportConditionalFlowMatcher()
sampler = OTPlanSampler("exact")


def noise_and_images(size):
    return torch.randn(size, 3, 8, 8), torch.rand(size, 3, 8, 8) * 2 - 1


def matched(size):
    numbers = torch.arange(size)
    return matcher.guided_sample_location_and_conditional_flow(*noise_and_images(size), y1=numbers)[4]


def once(size):
    noise, images = noise_and_images(size)
    return sampler.sample_plan_with_labels(noise, images, y1=torch.arange(size), replace=False)[3]


for size, tries in ((10, 200), (64, 20), (256, 5)):
    print(f"batch of {size}:", end="")
    for said, draw in (("matcher", matched), ("replace=False", once)):
        share = sum(len(draw(size).unique()) for _ in range(tries)) / tries / size
        near = "all" if share == 1 else "about 63%" if abs(share - 0.63) < 0.05 else f"{share:.3f}"
        print(f"{',' if draw is once else ''} {said} {near}", end="")
    print()
runs = []
for _ in range(2):
    torch.manual_seed(0)
    noise, images = noise_and_images(256)
    runs.append(matcher.guided_sample_location_and_conditional_flow(noise, images, y1=torch.arange(256)))
print(f"equal in two runs: times {torch.equal(runs[0][0], runs[1][0])}, images {torch.equal(runs[0][4], runs[1][4])}")
PY
cat >"$folder/expected" <<'OUT'
batch of 10: matcher about 63%, replace=False all
batch of 64: matcher about 63%, replace=False all
batch of 256: matcher about 63%, replace=False all
equal in two runs: times True, images False
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
