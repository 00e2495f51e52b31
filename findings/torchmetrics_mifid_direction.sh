#!/usr/bin/env bash
# Version:  torchmetrics 1.9.0 (MemorizationInformedFrechetInceptionDistance), torch 2.13.0
# Guess:    MiFID divides FID by the mean distance of a drawn image to its nearest training image, as it was defined: it
#           "penalizes memorization of the training set by the generator" (the class's documentation), so a model that
#           draws nothing but copies gets a large value.
# Behavior: The mean is taken over the training images, each to its nearest drawn one: it tells whether the training set
#           is covered. A model whose images are all copies of a tenth of the training set, each ten times, gets its FID
#           without any penalty, as a model of new images does. A model that draws a copy of each training image among
#           nine times as many new ones gets the full penalty. Nothing is said, and where all images are new, or all of
#           the set is copied, both means agree. Told that the training images are the drawn ones (real=False) and the
#           reverse, the class gives what was defined: FID is the same in both directions.
# Output:   the factor by which FID is multiplied, as real and drawn were told and in reverse; see the lines after
#           "expected" below. Features are given directly, in place of images and a network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps torchmetrics==1.9.0 lightning-utilities==0.15.3 packaging >/dev/null
cat >"$folder/try.py" <<'PY'
import torch
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

torch.manual_seed(0)


def new(number):
    return torch.randn(number, 64)


def copies(images):
    return images + 0.01 * torch.randn_like(images)


def factor(real, fake):
    metric = MemorizationInformedFrechetInceptionDistance(feature=torch.nn.Identity())
    metric.update(real, real=True)
    metric.update(fake, real=False)
    statistics = [value for x in (real.double(), fake.double()) for value in (x.mean(0), x.T.cov())]
    ratio = metric.compute().item() / _compute_fid(*statistics).item()
    return int(float(f"{ratio:.1g}"))


training = new(1000)
for said, drawn in (
    ("1000 new images", new(1000)),
    ("10 copies of each of 100", copies(training[:100].repeat(10, 1))),
    ("a copy of each of 1000", copies(training)),
    ("a copy of each and 9000 new", torch.cat((copies(training), new(9000)))),
):
    print(f"{said}: {factor(training, drawn)}, in reverse {factor(drawn, training)}")
PY
cat >"$folder/expected" <<'OUT'
1000 new images: 1, in reverse 1
10 copies of each of 100: 1, in reverse 20000
a copy of each of 1000: 20000, in reverse 20000
a copy of each and 9000 new: 20000, in reverse 1
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
