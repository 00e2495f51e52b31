#!/usr/bin/env bash
# Version:  diffusers 0.42.0 (FlowMatchEulerDiscreteScheduler, of Stable Diffusion 3 with shift=3), torch 2.13.0
# Guess:    The scheduler is made with 1,000 shifted timesteps; set_timesteps(1000) gives the same ones again, and fewer
#           steps are a part of them: sigma = 3 s / (1 + 2 s) of s evenly spaced.
# Behavior: set_timesteps spaces evenly from the largest to the smallest sigma, which are shifted already, and shifts the
#           result again. The last timestep is 8.9 instead of 3.0, and all between move too. Both ends are taken, also
#           without a shift: of 4 steps the last begins at sigma 0.009 and does next to nothing.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.0 transformers==5.24.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
from diffusers import FlowMatchEulerDiscreteScheduler

for shift in (1.0, 3.0):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    made = scheduler.timesteps[[0, 500, 900, 999]].tolist()
    scheduler.set_timesteps(1000)
    again = scheduler.timesteps[[0, 500, 900, 999]].tolist()
    scheduler.set_timesteps(4)
    for name, values in (("made with", made), ("set to 1000:", again), ("sigmas of 4:", scheduler.sigmas.tolist())):
        print(f"shift {shift:g}", name, *(f"{value:.3f}" for value in values))
PY
cat >"$folder/expected" <<'OUT'
shift 1 made with 1000.000 500.000 100.000 1.000
shift 1 set to 1000: 1000.000 500.000 100.000 1.000
shift 1 sigmas of 4: 1.000 0.667 0.334 0.001 0.000
shift 3 made with 1000.000 750.000 250.000 2.994
shift 3 set to 1000: 1000.000 750.748 253.731 8.929
shift 3 sigmas of 4: 1.000 0.858 0.602 0.009 0.000
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
