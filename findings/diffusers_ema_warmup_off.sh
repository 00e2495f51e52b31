#!/usr/bin/env bash
# Version:  diffusers 0.42.0 (diffusers.training_utils.EMAModel), torch 2.13.0
# Guess:    EMAModel(parameters, decay=0.9999) averages with decay 0.9999 from the start: use_ema_warmup is False by
#           default, and means that nothing is warmed up.
# Behavior: use_ema_warmup only chooses between two warm-ups. Without it the decay of step n is at most n / (9 + n), which
#           is 0.99 after 1,000 steps and reaches 0.9999 after 90,000: most runs of fine-tuning end with a far shorter
#           average than they asked for. min_decay=0.9999 holds it there, except for the first step, which copies the
#           weights (decay 0) in any case.
# Output:   the decay of steps 1, 2, 10, 100, 1,000, 10,000 and 100,000; see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.0 transformers==5.24.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import torch
from diffusers.training_utils import EMAModel

for options in ({}, {"use_ema_warmup": False}, {"use_ema_warmup": True}, {"min_decay": 0.9999}):
    weight = torch.nn.Parameter(torch.zeros(1))
    ema, found = EMAModel([weight], decay=0.9999, **options), []
    for step in range(1, 100_001):
        ema.step([weight])
        if step in (1, 2, 10, 100, 1_000, 10_000, 100_000):
            found.append(f"{ema.cur_decay_value:.4f}")
    print(options, *found)
PY
cat >"$folder/expected" <<'OUT'
{} 0.0000 0.1818 0.5263 0.9174 0.9911 0.9991 0.9999
{'use_ema_warmup': False} 0.0000 0.1818 0.5263 0.9174 0.9911 0.9991 0.9999
{'use_ema_warmup': True} 0.0000 0.3700 0.7846 0.9536 0.9900 0.9978 0.9995
{'min_decay': 0.9999} 0.0000 0.9999 0.9999 0.9999 0.9999 0.9999 0.9999
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
