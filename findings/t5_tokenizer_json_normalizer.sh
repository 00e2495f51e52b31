#!/usr/bin/env bash
# Version:  transformers 5.24.0, tokenizers 0.23.3
# Guess:    A folder with a tokenizer.json is tokenized as that file says: AutoTokenizer runs its normalizer and
#           pre-tokenizer, as tokenizers' own Tokenizer.from_file does.
# Behavior: For tokenizer_class T5Tokenizer, transformers 5 takes only the vocabulary of the file and builds the normalizer
#           and the pre-tokenizer anew. A lowercasing normalizer in the file is dropped without a warning, so a prompt gets
#           other tokens than the same file gives elsewhere.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

folder = Path(sys.argv[1])
words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), ("▁fox", -2.0), ("▁FOX", -2.0)]
tokenizer = Tokenizer(models.Unigram(words + [(letter, -4.0) for letter in "abcFOXfox"[:6]], unk_id=2))
tokenizer.normalizer = normalizers.Lowercase()
tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
tokenizer.decoder = decoders.Metaspace()
tokenizer.save(str(folder / "tokenizer.json"))
names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "extra_ids": 0}
(folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", **names}))
print("tokenizers:  ", Tokenizer.from_file(str(folder / "tokenizer.json")).encode("FOX").tokens)
loaded = AutoTokenizer.from_pretrained(folder)
print("transformers:", loaded.tokenize("FOX"), "normalizer", loaded.backend_tokenizer.normalizer)
PY
cat >"$folder/expected" <<'OUT'
tokenizers:   ['▁fox']
transformers: ['▁FOX'] normalizer None
OUT
mkdir "$folder/model"
PYTHONUTF8=1 "$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder/model" 2>/dev/null |
	diff "$folder/expected" - && echo "as found"
