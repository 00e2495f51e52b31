#!/usr/bin/env bash
# Version:  diffusers 0.42.0 (DPMSolverMultistepScheduler, UniPCMultistepScheduler, DEISMultistepScheduler), torch 2.13.0
# Guess:    A model trained on 1000 timesteps is sampled best, and most slowly, with num_inference_steps=1000: every
#           timestep once. Euler does that.
# Behavior: By default these three round 1001 points to the timesteps 0 to 999, so that one timestep comes twice. The step
#           between the two has length 0 and is divided by: every value of the image is NaN, with the exact noise
#           predicted at each step. No error and no warning; 999 steps are right.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.0 transformers==5.24.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import torch
from diffusers import DEISMultistepScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

IMAGE = 0.5  # of every pixel: its noise can be predicted exactly, so that each sampler should end at it
for kind in (EulerDiscreteScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler, DEISMultistepScheduler):
    for steps in (50, 999, 1000):
        scheduler = kind()
        scheduler.set_timesteps(steps)
        x = scheduler.init_noise_sigma * torch.ones(1, 1, 1, 1)
        for t in scheduler.timesteps:
            level = scheduler.alphas_cumprod[round(t.item())]
            noise = (scheduler.scale_model_input(x, t) - level.sqrt() * IMAGE) / (1 - level).sqrt()
            x = scheduler.step(noise, t, x).prev_sample
        print(f"{kind.__name__}, {steps} steps: {x.item():.1f}")
PY
cat >"$folder/expected" <<'OUT'
EulerDiscreteScheduler, 50 steps: 0.5
EulerDiscreteScheduler, 999 steps: 0.5
EulerDiscreteScheduler, 1000 steps: 0.5
DPMSolverMultistepScheduler, 50 steps: 0.5
DPMSolverMultistepScheduler, 999 steps: 0.5
DPMSolverMultistepScheduler, 1000 steps: nan
UniPCMultistepScheduler, 50 steps: 0.5
UniPCMultistepScheduler, 999 steps: 0.5
UniPCMultistepScheduler, 1000 steps: nan
DEISMultistepScheduler, 50 steps: 0.5
DEISMultistepScheduler, 999 steps: 0.5
DEISMultistepScheduler, 1000 steps: nan
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
