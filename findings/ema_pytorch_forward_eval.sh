#!/usr/bin/env bash
# Version:  ema-pytorch 0.8.3 (EMA.forward_eval), torch 2.13.0
# Guess:    forward_eval(x) calls the averaged network without gradients and in evaluation mode, as its name and its
#           comment say, and puts the mode back: with dropout, two calls of one input give the same.
# Behavior: The mode is read before the call and put back after it, and in between it is not changed. The average is a
#           copy of a network in training mode, so dropout is on: images drawn for a validation change from call to
#           call, and are worse than those of the same weights in evaluation mode. Batch normalization uses the batch,
#           so that the prediction for one input depends on the others, and writes its statistics into the average.
#           Nothing is said. The gradients are off, as promised. Call ema.eval() before.
# Output:   whether two calls give the same, whether an input gives the same alone, in a batch of 8, and how far the
#           statistics of the average moved from 0; see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps ema-pytorch==0.8.3 >/dev/null
cat >"$folder/try.py" <<'PY'
import torch
from ema_pytorch import EMA
from torch import nn

torch.manual_seed(0)
X = torch.randn(8, 4) + 5


def report(said, ema):
    twice, pair = torch.equal(ema.forward_eval(X), ema.forward_eval(X)), ema.forward_eval(X[:2])[0]
    alone = torch.allclose(ema.forward_eval(X)[0], pair, atol=1e-5)
    print(f"{said}: the same twice {twice}, the same in a smaller batch {alone}", end="")
    norms = [m for m in ema.ema_model.modules() if isinstance(m, nn.BatchNorm1d)]
    print("".join(f", statistics {'moved' if m.running_mean.abs().max() > 0 else 'kept'}" for m in norms))


for said, layer in (("dropout", nn.Dropout(0.5)), ("batch normalization", nn.BatchNorm1d(64))):
    for evaluated in (False, True):
        ema = EMA(nn.Sequential(nn.Linear(4, 64), layer, nn.Linear(64, 1)))
        if evaluated:
            ema.eval()
        report(said + ", after ema.eval()" * evaluated, ema)
print(f"gradients {ema.forward_eval(X).requires_grad}")
PY
cat >"$folder/expected" <<'OUT'
dropout: the same twice False, the same in a smaller batch False
dropout, after ema.eval(): the same twice True, the same in a smaller batch True
batch normalization: the same twice True, the same in a smaller batch False, statistics moved
batch normalization, after ema.eval(): the same twice True, the same in a smaller batch True, statistics kept
gradients False
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
