#!/usr/bin/env bash
# Version:  frechet-coefficient 2.0.13 (hellinger_distance)
# Guess:    hellinger_distance of two Gaussians, of features of real and of drawn images, is the Hellinger distance: a
#           number between 0 for the same images and 1, that orders models as the distance of their features does.
# Behavior: The square of the distance is returned, and the difference of the means enters it 64 times as strongly as it
#           should: the exponent is divided by 1/8 in place of multiplied by it. Features whose means are half
#           a standard deviation apart have 0.86 in place of 0.18, and from one standard deviation on every model has
#           1.00. Twice the deviation has 0.11 in place of 0.32, so the two models change places. And 1e-7 is added to
#           the root of the determinant: with 16 and more independent features of deviation 0.3 that is all that is
#           left of it, and a set and itself have 0.96 to 1.00. No warning and no error. frechet_distance is right.
# Output:   distances of Gaussians by the definition, integrated over a grid, and by the package; see the lines after
#           "expected" below. Statistics are given directly, and the package's image networks are left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 imageio==2.37.4 >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps frechet-coefficient==2.0.13 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
import types

import numpy as np

sys.modules["tensorflow"] = types.SimpleNamespace()
sys.modules["frechet_coefficient.models_tensorflow"] = types.SimpleNamespace(PretrainedModelWrapper=object)
from frechet_coefficient import frechet_distance, hellinger_distance


def integrated(difference, deviation):
    """Return the Hellinger distance of N(0, 1) and N(difference, deviation squared), by a sum over a grid."""
    x = np.linspace(-60, 60, 1_200_001)
    p = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    q = np.exp(-(((x - difference) / deviation) ** 2) / 2) / np.sqrt(2 * np.pi) / deviation
    return np.sqrt(((np.sqrt(p) - np.sqrt(q)) ** 2).sum() * (x[1] - x[0]) / 2)


for difference, deviation in ((0, 1), (0.1, 1), (0.25, 1), (0.5, 1), (1, 1), (3, 1), (0, 1.2), (0, 2), (0, 4)):
    statistics = np.zeros(1), np.eye(1), np.array([difference]), np.eye(1) * deviation**2
    print(
        f"means {difference} apart, deviations 1 and {deviation}: "
        f"defined {integrated(difference, deviation):.2f}, package {hellinger_distance(*statistics):.2f}"
    )
for features in (8, 16, 32, 64):
    same = np.zeros(features), np.eye(features) * 0.3**2
    distances = hellinger_distance(*same, *same), abs(frechet_distance(*same, *same))
    print(f"{features} features of deviation 0.3, a set and itself: %.2f, Fréchet distance %.2f" % distances)
PY
cat >"$folder/expected" <<'OUT'
means 0 apart, deviations 1 and 1: defined 0.00, package 0.00
means 0.1 apart, deviations 1 and 1: defined 0.04, package 0.08
means 0.25 apart, deviations 1 and 1: defined 0.09, package 0.39
means 0.5 apart, deviations 1 and 1: defined 0.18, package 0.86
means 1 apart, deviations 1 and 1: defined 0.34, package 1.00
means 3 apart, deviations 1 and 1: defined 0.82, package 1.00
means 0 apart, deviations 1 and 1.2: defined 0.09, package 0.01
means 0 apart, deviations 1 and 2: defined 0.32, package 0.11
means 0 apart, deviations 1 and 4: defined 0.56, package 0.31
8 features of deviation 0.3, a set and itself: 0.00, Fréchet distance 0.00
16 features of deviation 0.3, a set and itself: 0.96, Fréchet distance 0.00
32 features of deviation 0.3, a set and itself: 1.00, Fréchet distance 0.00
64 features of deviation 0.3, a set and itself: 1.00, Fréchet distance 0.00
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
