#!/usr/bin/env bash
# Version:  diffusers 0.42.0 (DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, DEISMultistepScheduler,
#           UniPCMultistepScheduler), torch 2.13.0
# Guess:    add_noise(images, noise, t) mixes as much noise as timestep t has in alphas_cumprod, whichever scheduler a
#           pipeline was saved with: fine-tuning loads that one, draws t from 0 to 999, and may draw sample images with
#           20 steps in between. DDIM, DDPM and SASolver do that.
# Behavior: A new scheduler of these four lists its timesteps from 999 to 0, but its sigmas from clean to noisy, and
#           add_noise takes the sigma at the timestep's place in the list: timestep 0 gets the noise of 999, and 999
#           that of 0. The network is trained with time running backward, without an error, and step() then reads it
#           forward. After set_timesteps(20) the order is right, but each of the 980 timesteps that are not in the list
#           gets the noise of the last one that is. To train, make a DDPMScheduler of the same config.
# Output:   the share of noise, sqrt(1 - alpha_bar), at timesteps 0, 100, 500, 900 and 999, and how many of the 1000
#           timesteps have the share that alphas_cumprod says; see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import diffusers
import torch

every = torch.arange(1000)
black, white = torch.zeros(1000, 1, 1, 1), torch.ones(1000, 1, 1, 1)
for name in ("DDIM", "SASolver", "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep"):
    for steps in (None, 20):
        scheduler = getattr(diffusers, name + "Scheduler")()
        if steps:
            scheduler.set_timesteps(steps)
        share = scheduler.add_noise(black, white, every).flatten()
        right = torch.isclose(share, (1 - scheduler.alphas_cumprod).sqrt(), rtol=0, atol=1e-4)
        when = f"after set_timesteps({steps})" if steps else "new"
        print(f"{name}, {when}:", *(f"{share[t]:.2f}" for t in (0, 100, 500, 900, 999)), f"right {right.sum()}")
PY
cat >"$folder/expected" <<'OUT'
DDIM, new: 0.01 0.32 0.96 1.00 1.00 right 1000
DDIM, after set_timesteps(20): 0.01 0.32 0.96 1.00 1.00 right 1000
SASolver, new: 0.01 0.32 0.96 1.00 1.00 right 1000
SASolver, after set_timesteps(20): 0.01 0.32 0.96 1.00 1.00 right 1000
DPMSolverMultistep, new: 1.00 1.00 0.96 0.32 0.01 right 0
DPMSolverMultistep, after set_timesteps(20): 0.17 0.32 0.96 0.17 1.00 right 20
DPMSolverSinglestep, new: 1.00 1.00 0.96 0.32 0.01 right 0
DPMSolverSinglestep, after set_timesteps(20): 0.17 0.32 0.96 0.17 1.00 right 20
DEISMultistep, new: 1.00 1.00 0.96 0.32 0.01 right 0
DEISMultistep, after set_timesteps(20): 0.17 0.32 0.96 0.17 1.00 right 20
UniPCMultistep, new: 1.00 1.00 0.96 0.32 0.01 right 0
UniPCMultistep, after set_timesteps(20): 0.17 0.32 0.96 0.17 1.00 right 20
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
