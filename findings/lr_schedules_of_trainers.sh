#!/usr/bin/env bash
# Version:  diffusers 0.42.0 and transformers 5.24.0 (get_scheduler), torch 2.13.0
# Guess:    get_scheduler(name, optimizer, num_warmup_steps=4, num_training_steps=12) warms up over 4 steps, whatever the
#           name; and who trains on after step 12 trains at the last rate, 0, as "linear" does.
# Behavior: "constant" takes num_warmup_steps and ignores it: the first step has the full rate ("constant_with_warmup"
#           warms up). "cosine" has no end: after step 12 its rate climbs back, as steeply as it fell, to the full rate,
#           so that a run which is resumed for more steps than it was planned for leaves its minimum.
# Output:   the rates of steps 0, 4, 8, 12, 16, 20; see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.0 transformers==5.24.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import diffusers.optimization
import torch
import transformers

for library in (diffusers.optimization, transformers):
    for name in ("constant", "constant_with_warmup", "linear", "cosine"):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = library.get_scheduler(name, optimizer, num_warmup_steps=4, num_training_steps=12)
        rates = []
        for _ in range(21):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        print(library.__name__.partition(".")[0], name, *(f"{rate:.2f}" for rate in rates[::4]))
PY
cat >"$folder/expected" <<'OUT'
diffusers constant 1.00 1.00 1.00 1.00 1.00 1.00
diffusers constant_with_warmup 0.00 1.00 1.00 1.00 1.00 1.00
diffusers linear 0.00 1.00 0.50 0.00 0.00 0.00
diffusers cosine 0.00 1.00 0.50 0.00 0.50 1.00
transformers constant 1.00 1.00 1.00 1.00 1.00 1.00
transformers constant_with_warmup 0.00 1.00 1.00 1.00 1.00 1.00
transformers linear 0.00 1.00 0.50 0.00 0.00 0.00
transformers cosine 0.00 1.00 0.50 0.00 0.50 1.00
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
