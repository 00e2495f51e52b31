#!/usr/bin/env bash
# Version:  diffusers 0.42.0 (DDIMScheduler), torch 2.13.0
# Guess:    With timestep_spacing="trailing" any number of steps ends at the clean image: the last step goes to
#           alpha_bar = 1 (set_alpha_to_one), and each step goes to the timestep that set_timesteps lists next.
# Behavior: set_timesteps rounds multiples of 1000 / n, but step() subtracts the integer 1000 // n. If n does not divide
#           1000, steps aim at timesteps that are not in the list, and where 1000 // n is not the last timestep plus 1 the
#           last step ends at timestep 0 instead of the clean image, so noise remains. 28 steps, a common default, is
#           such a number; 20, 25, 40, 50 and 100 are not.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.0 transformers==5.24.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import torch
from diffusers import DDIMScheduler

for steps in (20, 25, 28, 30, 48, 50):
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    listed = scheduler.timesteps.tolist()
    targets = [t - scheduler.config.num_train_timesteps // steps for t in listed]
    unlisted = sum(target != following for target, following in zip(targets, [*listed[1:], -1]))
    # The exact noise of an all-zero image is predicted: a last step to alpha_bar = 1 leaves exactly 0.
    last = torch.tensor(listed[-1])
    level = (1 - scheduler.alphas_cumprod[last]).sqrt()
    rest = scheduler.step(torch.ones(1), int(last), level * torch.ones(1)).prev_sample.abs().item()
    print(f"{steps} steps: {unlisted} aim at another timestep than the next, noise left {rest:.4f}")
PY
cat >"$folder/expected" <<'OUT'
20 steps: 0 aim at another timestep than the next, noise left 0.0000
25 steps: 0 aim at another timestep than the next, noise left 0.0000
28 steps: 20 aim at another timestep than the next, noise left 0.0100
30 steps: 10 aim at another timestep than the next, noise left 0.0000
48 steps: 40 aim at another timestep than the next, noise left 0.0100
50 steps: 0 aim at another timestep than the next, noise left 0.0000
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
