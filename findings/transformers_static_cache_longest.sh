#!/usr/bin/env bash
# Version:  transformers 5.24.0, torch 2.13.0
# Guess:    generate() with cache_implementation="static" makes a cache for each call, of the prompt and max_new_tokens, so
#           that a call with a small limit costs the same whatever was asked before.
# Behavior: The model remembers the longest cache it ever made, and every later call gets one of that length: after one
#           call of 200 new tokens, a call of 8 has 203 places in place of 11, memory for them included. A model loaded
#           anew has the short cache.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "return_dict_in_generate": True}
prompt = torch.tensor([[1, 2, 3, 4]])


def network():
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=512, **shape)).eval()
    model.generation_config.update(**settings, cache_implementation="static")
    return model


def places(model, limit):
    made = model.generate(prompt, max_new_tokens=limit)
    return made.past_key_values.layers[0].keys.shape[2]


model = network()
print("one model, at most 8, 200, 8 new tokens:", [places(model, limit) for limit in (8, 200, 8)])
print("a new one, at most 8:", places(network(), 8))
PY
cat >"$folder/expected" <<'OUT'
one model, at most 8, 200, 8 new tokens: [11, 203, 203]
a new one, at most 8: 11
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
