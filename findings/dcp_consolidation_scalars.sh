#!/usr/bin/env bash
# Version:  torch 2.13.0 (torch.distributed.checkpoint), safetensors 0.8.0
# Guess:    Consolidating a sharded checkpoint of HuggingFaceStorageWriter keeps every tensor: what was saved is read back.
# Behavior: consolidate_safetensors_files writes a 0-dimensional tensor as 0 (a learned temperature, a step count), and
#           ends in a TypeError about torch.finfo where a tensor holds integers. Tensors of one or more dimensions in
#           floating point are right.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 safetensors==0.8.0 huggingface_hub==2.4.0 fsspec numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageWriter
from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files

base = Path(sys.argv[1])
states = {
    "floats": {"weight": torch.tensor([1.0, 2.0]), "temperature": torch.tensor(3.5)},
    "integers": {"weight": torch.tensor([1.0, 2.0]), "steps": torch.tensor([7, 8])},
}
for name, state in states.items():
    parts, whole = base / name, base / f"{name}-whole"
    whole.mkdir(parents=True)
    dcp.save(state, storage_writer=HuggingFaceStorageWriter(path=str(parts), save_distributed=True), no_dist=True)
    saved = load_file(next(parts.glob("*.safetensors")))
    print(name, "saved:", {key: saved[key].tolist() for key in sorted(saved)})
    try:
        consolidate_safetensors_files(str(parts), str(whole), fqn_to_index_mapping=dict.fromkeys(state, 1))
        read = load_file(next(whole.glob("*.safetensors")))
        print(name, "consolidated:", {key: read[key].tolist() for key in sorted(read)})
    except TypeError as error:
        print(name, "consolidated:", type(error).__name__, str(error).split(" requires")[0])
PY
cat >"$folder/expected" <<'OUT'
floats saved: {'temperature': 3.5, 'weight': [1.0, 2.0]}
floats consolidated: {'temperature': 0.0, 'weight': [1.0, 2.0]}
integers saved: {'steps': [7, 8], 'weight': [1.0, 2.0]}
integers consolidated: TypeError torch.finfo()
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder/out" 2>/dev/null | diff "$folder/expected" - && echo "as found"
