#!/usr/bin/env bash
# Version:  ema-pytorch 0.8.3 (PostHocEMA, KarrasEMA), torch 2.13.0
# Guess:    PostHocEMA(network, sigma_rels=(0.05, 0.28)) keeps averages of the weights whose widths are 5% and 28% of
#           the training, as EDM2 defines sigma_rel. update_every=10, as in its README, or 100, the default, only saves
#           time: the same averages, of every 10th or 100th step.
# Behavior: An update uses the decay of one step, whatever number of steps it is for, so the exponent gamma + 1 is
#           divided by update_every. With 10, the narrow average is five times as wide and has its center at 64% of the
#           training in place of 95%; with 100, the centers are at 15% and 1%: weights from the beginning of the
#           training. synthesize_ema_model computes as if the averages were those that were asked for, and so gives
#           another one too. update_every=1 is right.
# Output:   center and width of the averages, as parts of the training, measured with weights that are the time and its
#           square; see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 ema-pytorch==0.8.3 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys

import torch
from ema_pytorch import PostHocEMA

STEPS = 10_000
torch.set_default_dtype(torch.float64)
for every in (1, 10, 100):
    network = torch.nn.ParameterDict({"weights": torch.zeros(2)})
    averages = PostHocEMA(
        network,
        sigma_rels=(0.05, 0.28),
        update_every=every,
        checkpoint_every_num_steps=STEPS // 10,
        checkpoint_dtype=torch.float64,
        checkpoint_folder=f"{sys.argv[1]}/{every}",
    )
    for step in range(1, STEPS + 1):
        time = step / STEPS
        network["weights"].data = torch.tensor([time, time**2])
        averages.update()
    narrow, wide = averages.ema_models
    for said, average in (
        ("0.05", narrow),
        ("0.28", wide),
        ("0.15, synthesized", averages.synthesize_ema_model(sigma_rel=0.15)),
    ):
        center, square = average.ema_model["weights"].tolist()
        width = (square - center**2) ** 0.5
        print(f"update_every {every}, sigma_rel {said}: center {center:.2f}, width {width:.2f}")
PY
cat >"$folder/expected" <<'OUT'
update_every 1, sigma_rel 0.05: center 0.95, width 0.05
update_every 1, sigma_rel 0.28: center 0.54, width 0.28
update_every 1, sigma_rel 0.15, synthesized: center 0.82, width 0.15
update_every 10, sigma_rel 0.05: center 0.64, width 0.25
update_every 10, sigma_rel 0.28: center 0.10, width 0.21
update_every 10, sigma_rel 0.15, synthesized: center 0.24, width 0.32
update_every 100, sigma_rel 0.05: center 0.15, width 0.24
update_every 100, sigma_rel 0.28: center 0.01, width 0.07
update_every 100, sigma_rel 0.15, synthesized: center 0.04, width 0.14
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder" 2>/dev/null |
	diff "$folder/expected" - && echo "as found"
