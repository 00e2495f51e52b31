#!/usr/bin/env bash
# Version:  diffusers 0.42.0, transformers 5.24.0, torch 2.13.0
# Guess:    A pipeline that was saved in float16 and is loaded without a type comes back in one type: the files', or
#           float32, the default of torch.
# Behavior: diffusers loads its own parts (U-Net, VAE) in float32, transformers 5 the text encoder in the type of its
#           file. The loaded pipeline mixes both, and the first product of the U-Net with the text raises. Given a type,
#           all parts have it.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.0 transformers==5.24.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
parts = {
    "vae": AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4),
    "text_encoder": CLIPTextModel(CLIPTextConfig(**sizes)),
    "unet": UNet2DConditionModel(
        block_out_channels=(8,), norm_num_groups=2, attention_head_dim=4, cross_attention_dim=8, **blocks
    ),
    "scheduler": DDIMScheduler(),
}
nothing = {"tokenizer": None, "safety_checker": None, "feature_extractor": None}
pipeline = StableDiffusionPipeline(**parts, **nothing, requires_safety_checker=False)
pipeline.to(torch.float16).save_pretrained(sys.argv[1])
for given in ({}, {"dtype": torch.float32}, {"dtype": torch.float16}):
    loaded = DiffusionPipeline.from_pretrained(sys.argv[1], tokenizer=None, **given)
    found = {name: str(getattr(loaded, name).dtype) for name in ("unet", "vae", "text_encoder")}
    text = loaded.text_encoder(torch.zeros(1, 3, dtype=torch.long)).last_hidden_state
    try:
        loaded.unet(torch.zeros(1, 4, 8, 8, dtype=loaded.unet.dtype), 0, encoder_hidden_states=text)
        ends = "runs"
    except RuntimeError as error:
        ends = type(error).__name__
    print(*given.values(), found, ends)
PY
cat >"$folder/expected" <<'OUT'
{'unet': 'torch.float32', 'vae': 'torch.float32', 'text_encoder': 'torch.float16'} RuntimeError
torch.float32 {'unet': 'torch.float32', 'vae': 'torch.float32', 'text_encoder': 'torch.float32'} runs
torch.float16 {'unet': 'torch.float16', 'vae': 'torch.float16', 'text_encoder': 'torch.float16'} runs
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder/model" 2>/dev/null | diff "$folder/expected" - && echo "as found"
