#!/usr/bin/env bash
# Version:  pytorch-optimizer 4.1.0 (Lamb), torch 2.13.0
# Guess:    A step changes each tensor by lr times its norm, whatever its gradient: Lamb is documented as having a trust
#           ratio for each tensor, by version 3 of the paper, without bias correction. rectify=True only adds RAdam's
#           warm-up, and adam=True alone turns the ratio off.
# Behavior: The step is divided by the bias correction of Adam's first moment: the first is 10 times as large, the
#           second 5 times, the 10th 1.5 times. The norm is cut at 10, by a constant that is no argument and that the
#           documentation does not name: a new torch.nn.Linear(1024, 4096) has norm 37 and learns at a quarter of lr.
#           With rectify=True the ratio compares the weights before and after the step, so that it is about 1, or 10
#           divided by the norm: a tensor gets RAdam's step or less, as if without LAMB.
# Output:   changes as multiples of lr times the norm; see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 pytorch-optimizer==4.1.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import torch
from pytorch_optimizer import Lamb

RATE, STEPS = 1e-3, 100
torch.manual_seed(0)
start, *gradients = torch.randn(1 + STEPS, 64, 64)


def changes(norm, **options):
    weights = torch.nn.Parameter(start * norm / start.norm())
    optimizer = Lamb([weights], lr=RATE, **options)
    for gradient in gradients:
        before = weights.detach().clone()
        weights.grad = gradient.clone()
        optimizer.step()
        yield f"{((weights - before).norm() / before.norm() / RATE).item():.2g}"


found = list(changes(norm=1))
print("norm 1, steps 1, 2, 5, 10, 20, 100:", *(found[step - 1] for step in (1, 2, 5, 10, 20, 100)))
print(f"norm of a new layer: {torch.nn.Linear(1024, 4096).weight.norm():.0f}")
for options in ({}, {"rectify": True}, {"adam": True}):
    last = [list(changes(norm, **options))[-1] for norm in (1, 10, 37, 100)]
    print("norms 1, 10, 37, 100, step 100:", *last, options)
PY
cat >"$folder/expected" <<'OUT'
norm 1, steps 1, 2, 5, 10, 20, 100: 10 5.3 2.4 1.5 1.1 1
norm of a new layer: 37
norms 1, 10, 37, 100, step 100: 1 1 0.27 0.1 {}
norms 1, 10, 37, 100, step 100: 3.2 0.32 0.023 0.0032 {'rectify': True}
norms 1, 10, 37, 100, step 100: 8.1 4.1 1.3 0.48 {'adam': True}
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
