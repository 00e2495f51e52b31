#!/usr/bin/env bash
# Version:  diffusers 0.42.0, torch 2.13.0
# Guess:    Two folders with code of their own (["pipeline", "Mine"] in model_index.json, loaded with
#           trust_remote_code=True) are two modules: each pipeline runs the code of its folder.
# Behavior: A folder's pipeline.py becomes the module diffusers_modules.local.pipeline, whichever folder it is from, and
#           loading the next folder's executes that file in the same module. The classes stay apart, but a loaded
#           pipeline's functions and constants of the module are now the other folder's: it draws with other settings
#           than before, without an error. Files that have different names do not meet.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.0 transformers==5.24.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import json
import sys
from pathlib import Path

from diffusers import DiffusionPipeline

CODE = """from diffusers import DiffusionPipeline

STRENGTH = {strength}


class Mine(DiffusionPipeline):
    def __init__(self):
        super().__init__()

    def __call__(self):
        return STRENGTH
"""
base, loaded = Path(sys.argv[1]), {}
for name, strength in (("one", 0.1), ("two", 0.9)):
    (base / name).mkdir()
    (base / name / "pipeline.py").write_text(CODE.format(strength=strength))
    (base / name / "model_index.json").write_text(json.dumps({"_class_name": ["pipeline", "Mine"]}))
    loaded[name] = DiffusionPipeline.from_pretrained(base / name, trust_remote_code=True)
    print(f"after loading {name}:", {known: pipeline() for known, pipeline in loaded.items()})
PY
cat >"$folder/expected" <<'OUT'
after loading one: {'one': 0.1}
after loading two: {'one': 0.9, 'two': 0.9}
OUT
mkdir "$folder/models"
HF_HOME="$folder/hf" "$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder/models" 2>/dev/null |
	diff "$folder/expected" - && echo "as found"
