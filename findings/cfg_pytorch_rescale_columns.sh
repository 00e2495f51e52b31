#!/usr/bin/env bash
# Version:  classifier-free-guidance-pytorch 0.7.1 (classifier_free_guidance), torch 2.13.0
# Guess:    rescale_phi=1 gives each guided image the standard deviation of the image without guidance, as in the paper
#           that the code names, against overexposure: one factor for an image.
# Behavior: The deviation is taken over all axes but the first and the last, as if the last held the channels. Of images
#           in torch's order, (batch, channels, height, width), each column of pixels gets a factor of its own. Columns
#           in which the text changes much are dimmed, and the others are not, so that the background has another
#           contrast above and below an object than to its left and right. No shape is refused and nothing is said.
# Output:   an image of noise, to whose right half the text adds an object: the factor of the columns of both halves,
#           and the one that the paper's formula gives; see the lines after "expected" below. The packages of the text
#           encoders are left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 einops==0.8.2 beartype==0.23.1 environs==15.2.0 \
	packaging >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps classifier-free-guidance-pytorch==0.7.1 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
from unittest.mock import MagicMock

import torch

for name in ("transformers", "open_clip", "ftfy", "regex"):
    sys.modules[name] = MagicMock()
from classifier_free_guidance_pytorch import classifier_free_guidance

torch.manual_seed(0)
WITHOUT = torch.randn(4, 3, 32, 32)
WITH = WITHOUT.clone()
WITH[..., 16:] += 2 * torch.randn(4, 3, 32, 16)


class Network(torch.nn.Module):
    """A network that predicts one image with the text and another one without it."""

    @classifier_free_guidance
    def forward(self, x, texts=None, cond_drop_prob=None):
        return WITHOUT if cond_drop_prob == 1 else WITH


network = Network().eval()
guided = network(WITHOUT, cond_scale=3.0)
torch.testing.assert_close(guided, WITHOUT + 3 * (WITH - WITHOUT))
factor = network(WITHOUT, cond_scale=3.0, rescale_phi=1.0) / guided
axes = (1, 2, 3)
paper = WITH.std(dim=axes) / guided.std(dim=axes)
print(f"left half {factor[..., :16].mean():.1f}, right half {factor[..., 16:].mean():.1f}, paper {paper.mean():.1f}")
columns = [len(set((image * 1000).round().flatten().tolist())) for image in factor.mean(dim=(1, 2))]
print(f"different factors in an image of 32 columns: {'more than 10' if min(columns) > 10 else columns}")
PY
cat >"$folder/expected" <<'OUT'
left half 1.0, right half 0.4, paper 0.4
different factors in an image of 32 columns: more than 10
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
