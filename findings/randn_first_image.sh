#!/usr/bin/env bash
# Version:  torch 2.13.0
# Guess:    With one seed the first image of a batch gets the noise that it gets alone: torch.randn fills a tensor in
#           order, so a larger one only goes on where a smaller one ends.
# Behavior: On the CPU, 16 and more values are drawn in blocks of 16 (pairs of one block share two uniform numbers), and the
#           last 16 are drawn anew where the count is no multiple of 16; fewer than 16 are drawn by another method. So the
#           first image's noise is the same only if its latents hold a multiple of 16 values: 4 x 64 x 64 are fine, 3 x 7 x
#           7 are not. The number format changes nothing: bfloat16 is the rounded float32.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import torch


def draw(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


for shape in ((4, 64, 64), (16, 1, 1), (3, 7, 7), (4, 2, 1)):
    alone, first = draw(1, *shape)[0], draw(8, *shape)[0]
    print(f"{shape}: {(alone == first).sum()} of {alone.numel()} values are those of the image alone")
print("bfloat16 is float32 rounded:", torch.equal(draw(4, 64, dtype=torch.bfloat16), draw(4, 64).bfloat16()))
PY
cat >"$folder/expected" <<'OUT'
(4, 64, 64): 16384 of 16384 values are those of the image alone
(16, 1, 1): 16 of 16 values are those of the image alone
(3, 7, 7): 131 of 147 values are those of the image alone
(4, 2, 1): 0 of 8 values are those of the image alone
bfloat16 is float32 rounded: True
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
