#!/usr/bin/env bash
# Version:  safetensors 0.8.0
# Guess:    A safetensors file is a function of what is saved: tensors are sorted in it, so the same tensors and the same
#           metadata give the same bytes, and a checksum in a manifest or a build cache can be compared.
# Behavior: The tensors are sorted, but the metadata is written in the order of a hash map that is seeded anew for each
#           file: with two or more entries the bytes differ between two saves, in one process already. With no metadata or
#           one entry (such as format: pt) they are the same.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import numpy
from safetensors.numpy import load, save

tensors = {"weight": numpy.arange(6.0), "bias": numpy.zeros(2)}
entries = {"format": "pt", "steps": "1000", "network": "dit", "seed": "0", "schedule": "cosine", "license": "mit"}
for number in (0, 1, len(entries)):
    saved = {save(tensors, dict(list(entries.items())[:number])) for _ in range(20)}
    read = {str(sorted((name, values.tolist()) for name, values in load(data).items())) for data in saved}
    print(f"{number} entries, 20 saves: one file is {len(saved) == 1}, the same tensors are in all {len(read) == 1}")
PY
cat >"$folder/expected" <<'OUT'
0 entries, 20 saves: one file is True, the same tensors are in all True
1 entries, 20 saves: one file is True, the same tensors are in all True
6 entries, 20 saves: one file is False, the same tensors are in all True
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
