#!/usr/bin/env bash
# Version:  k-diffusion 0.1.1.post1 (k_diffusion.evaluation.kid), torch 2.13.0
# Guess:    KID compares two sets, so the order of their features does not matter: a model that draws the right images
#           has a KID of 0, also where the real ones were read from class folders, class by class. max_size=5000 only
#           saves memory: of larger sets, random parts are compared, as KID is usually estimated.
# Behavior: Above 5,000 features each set is cut into consecutive parts, and each part is compared with the one in its
#           place. Where the real images are in order of class and the drawn ones are not, some of the classes are
#           compared with all. With 5,000 images a perfect model has 0.00, with 5,010 it has 0.07, as if it had never
#           drawn half of the classes, and with 20,000 it has 0.18. Where both are in order of class, but in opposite
#           orders, it is worse still. Nothing is said, and FID, usually computed along with it, is not changed.
#           Shuffle both sets before the call, or give a max_size that is as large as the sets.
# Output:   KID of features of ten classes; see the lines after "expected" below. Features are given directly, and the
#           packages that load networks and images are left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 safetensors==0.8.0 pillow==13.0.0 tqdm >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps k-diffusion==0.1.1.post1 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
from importlib.util import find_spec
from types import ModuleType
from unittest.mock import MagicMock

for name in ("cleanfid", "cleanfid.inception_torchscript", "clip", "torchvision", "torchvision.transforms"):
    sys.modules[name] = MagicMock()
package = ModuleType("k_diffusion")  # without its __init__, which imports the networks
package.__path__ = find_spec("k_diffusion").submodule_search_locations
sys.modules["k_diffusion"] = package

import torch
from k_diffusion.evaluation import fid, kid

torch.manual_seed(0)
centers = 0.5 * torch.randn(10, 32)


def features(number, classes=10):
    """Return features of ten times a number of images, class by class, of so many classes."""
    labels = torch.arange(classes).repeat_interleave(number * 10 // classes)
    return centers[labels] + torch.randn(len(labels), 32)


def shuffled(x):
    return x[torch.randperm(len(x))]


def said(value):
    return f"{abs(value.item()):.2f}"  # about 0 may be below it


for number in (500, 501, 2000):
    real, drawn = features(number), features(number)
    print(
        f"{len(real)} images:",
        f"shuffled {said(kid(shuffled(drawn), shuffled(real)))},",
        f"real ones by class {said(kid(shuffled(drawn), real))}",
    )
real, drawn, half = features(501), features(501), features(501, 5)
print(f"both by class: {said(kid(drawn, real))}, in opposite orders: {said(kid(drawn.flip(0), real))}")
print(f"real ones by class, max_size=5010: {said(kid(shuffled(drawn), real, max_size=5010))}")
print(f"half of the classes: shuffled {said(kid(shuffled(half), shuffled(real)))}")
print(f"FID: shuffled {said(fid(shuffled(drawn), shuffled(real)))}, by class {said(fid(drawn, real))}")
PY
cat >"$folder/expected" <<'OUT'
5000 images: shuffled 0.00, real ones by class 0.00
5010 images: shuffled 0.00, real ones by class 0.07
20000 images: shuffled 0.00, real ones by class 0.18
both by class: 0.00, in opposite orders: 0.27
real ones by class, max_size=5010: 0.00
half of the classes: shuffled 0.07
FID: shuffled 0.14, by class 0.14
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
