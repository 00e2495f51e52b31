#!/usr/bin/env bash
# Version:  piq 0.8.0 (PR), prdc 0.2, torch 2.13.0
# Guess:    Recall is the share of real images that lie within the reach of some generated image, which is the distance
#           to its k-th neighbor among the generated ones. So a model that draws nearly one image has a recall of 0.
# Behavior: A real image counts too where a generated image is just as far from it as its own k-th neighbor, within one
#           part in 100,000: the comparison for equality takes the reach of the real images, not that of the generated
#           ones. With few images that is rare. But the more there are, the more generated images lie near that distance
#           by chance, so that the recall of a collapsed model rises with the size of both sets, to a third at 4,000
#           images of 64 features. Precision is right, and so is recall where it is high.
# Output:   recall of generated features whose deviation is 0.3 of that of the real ones, and of equally wide ones, by
#           both packages; see the lines after "expected" below. torchvision is left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 prdc==0.2 >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps piq==0.8.0 >/dev/null
cat >"$folder/try.py" <<'PY'
import contextlib
import sys
from unittest.mock import MagicMock

import torch

for name in ("torchvision", "torchvision.models", "torchvision.transforms"):
    sys.modules[name] = MagicMock()
from piq import PR
from prdc import compute_prdc

for count in (500, 2000, 4000):
    torch.manual_seed(0)
    real, noise = torch.randn(2, count, 64)
    for said, generated in (("collapsed", 0.3 * noise), ("as wide", noise)):
        _, recall = PR(nearest_k=5)(real, generated)
        with contextlib.redirect_stdout(None):
            known = compute_prdc(real.numpy(), generated.numpy(), nearest_k=5)["recall"]
        print(f"{count} images, {said}: piq {recall:.2f}, prdc {known:.2f}")
PY
cat >"$folder/expected" <<'OUT'
500 images, collapsed: piq 0.01, prdc 0.00
500 images, as wide: piq 0.72, prdc 0.72
2000 images, collapsed: piq 0.12, prdc 0.00
2000 images, as wide: piq 0.68, prdc 0.67
4000 images, collapsed: piq 0.34, prdc 0.00
4000 images, as wide: piq 0.71, prdc 0.71
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
