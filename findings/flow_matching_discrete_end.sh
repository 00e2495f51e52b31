#!/usr/bin/env bash
# Version:  flow-matching 1.0.10 (MixtureDiscreteEulerSolver), torch 2.13.0
# Guess:    sample(time_grid=[0, 0.5]) solves from time 0 to 0.5, as documented: image tokens of which half are still
#           noise. So one can stop in the middle, change the text or a part of the image, and continue from 0.5 to 1.
# Behavior: The last step takes the network's prediction of the finished tokens, whatever time it ends at. Stopped at
#           0.25, 0.5 or 0.75, all tokens are those of a finished image: what follows gets an input that was never
#           trained at its time, and no token is left to be drawn anew. So is the last of the intermediates that are
#           asked for, while the same time in the middle of a longer grid is right. Nothing is said. To stop at a time,
#           ask for one more time after it, with return_intermediates=True, and take the last but one.
# Output:   the share of tokens that are finished, to the nearest 0.05: by the path of the training, by solving to that
#           time, and as an intermediate of solving to time 1; see the lines after "expected" below. The network
#           predicts exactly.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 tqdm >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps flow-matching==1.0.10 torchdiffeq==0.2.5 scipy==1.17.1 >/dev/null
cat >"$folder/try.py" <<'PY'
import torch
from flow_matching.path import MixtureDiscreteProbPath
from flow_matching.path.scheduler import CondOTScheduler
from flow_matching.solver import MixtureDiscreteEulerSolver
from flow_matching.utils import ModelWrapper

torch.manual_seed(0)
NOISE, FINISHED = torch.zeros(1000, 256, dtype=torch.long), torch.full((1000, 256), 3)


class Network(ModelWrapper):
    """A network that knows the only image of the training set: token 3 everywhere."""

    def forward(self, x, t, **extras):
        return torch.nn.functional.one_hot(FINISHED, 4).float()


path = MixtureDiscreteProbPath(CondOTScheduler())
solver = MixtureDiscreteEulerSolver(Network(torch.nn.Identity()), path, vocabulary_size=4)


def share(tokens):
    return f"{round(20 * (tokens == FINISHED).float().mean().item()) / 20:.2f}"


ends = [0.25, 0.5, 0.75, 1.0]
within = solver.sample(NOISE, step_size=0.01, time_grid=torch.tensor([0.0, *ends]), return_intermediates=True)
for end, state in zip(ends, within[1:], strict=True):
    trained = path.sample(x_0=NOISE, x_1=FINISHED, t=torch.full((1000,), end)).x_t
    solved = solver.sample(NOISE, step_size=0.01, time_grid=torch.tensor([0.0, end]))
    print(f"time {end}: trained {share(trained)}, solved to it {share(solved)}, on the way {share(state)}")
half = solver.sample(NOISE, step_size=0.01, time_grid=torch.tensor([0.0, 0.25, 0.5]), return_intermediates=True)
print(f"intermediates of [0, 0.25, 0.5]: {', '.join(map(share, half))}")
PY
cat >"$folder/expected" <<'OUT'
time 0.25: trained 0.25, solved to it 1.00, on the way 0.25
time 0.5: trained 0.50, solved to it 1.00, on the way 0.50
time 0.75: trained 0.75, solved to it 1.00, on the way 0.75
time 1.0: trained 1.00, solved to it 1.00, on the way 1.00
intermediates of [0, 0.25, 0.5]: 0.00, 0.25, 1.00
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
