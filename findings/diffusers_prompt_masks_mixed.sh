#!/usr/bin/env bash
# Version:  diffusers 0.42.0 (SanaPipeline, Lumina2Pipeline, HunyuanDiTPipeline), transformers 5.24.0, torch 2.13.0
# Guess:    A list of prompts with num_images_per_prompt=2, as benchmarks with several images a prompt are drawn, gives
#           the images that each prompt gives alone from the same noise. PixArtAlphaPipeline does that.
# Behavior: The texts are repeated as 1, 1, 2, 2, their attention masks as 1, 2, 1, 2. So half of the images of two
#           prompts, and 36 of the 40 of ten prompts with four images each, are drawn with the mask of another prompt: a
#           text is cut to the length of the other, or its padding is read as text. Nothing is said, and scores of such
#           images are not those of the model. One image a prompt is right, and so is a list that names each prompt
#           twice.
# Output:   which of the 4 images of a long and a short prompt are those that the prompt gives alone; see the lines
#           after "expected" below. The networks are small and random.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.0 transformers==5.24.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import diffusers
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

LONG, SHORT = "a fox sits in deep snow at the edge of a dark forest and looks up", "a fox"
words = {word: number for number, word in enumerate(dict.fromkeys(["<pad>", "<unk>", *LONG.split()]))}
split = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
split.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=split, pad_token="<pad>", unk_token="<unk>")

torch.manual_seed(0)
heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "in_channels": 4, "sample_size": 8}
text = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
bert = BertModel(BertConfig(**text)).eval()
gemma = Gemma2Model(Gemma2Config(**text, num_key_value_heads=1, head_dim=8)).eval()
t5 = T5EncoderModel(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)).eval()

pixart = diffusers.PixArtAlphaPipeline(
    tokenizer,
    t5,
    None,
    diffusers.PixArtTransformer2DModel(**heads, cross_attention_dim=16, caption_channels=16, norm_num_groups=4),
    diffusers.DPMSolverMultistepScheduler(),
)
sana = diffusers.SanaPipeline(
    tokenizer,
    gemma,
    None,
    diffusers.SanaTransformer2DModel(
        **heads,
        out_channels=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
    ),
    diffusers.FlowMatchEulerDiscreteScheduler(),
)
lumina = diffusers.Lumina2Pipeline(
    diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=16,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(64, 64, 64),
        cap_feat_dim=16,
    ),
    diffusers.FlowMatchEulerDiscreteScheduler(),
    None,
    gemma,
    tokenizer,
)
hunyuan = diffusers.HunyuanDiTPipeline(
    None,
    bert,
    tokenizer,
    diffusers.HunyuanDiT2DModel(
        **heads,
        patch_size=2,
        hidden_size=16,
        cross_attention_dim=16,
        cross_attention_dim_t5=16,
        pooled_projection_dim=16,
    ),
    diffusers.DDIMScheduler(clip_sample=False),
    None,
    None,
    False,
    t5,
    tokenizer,
)
for pipeline, side, options in (
    (pixart, 64, {"use_resolution_binning": False, "clean_caption": False}),
    (sana, 256, {"use_resolution_binning": False, "complex_human_instruction": None}),
    (lumina, 64, {"system_prompt": ""}),
    (hunyuan, 64, {"use_resolution_binning": False}),
):
    pipeline.transformer.eval()
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(4, 4, 8, 8)

    def draw(prompts, number, noise, pipeline=pipeline, side=side, options=options):
        settings = {"height": side, "width": side, "num_inference_steps": 4, "output_type": "latent"}
        return pipeline(
            prompts, num_images_per_prompt=number, latents=noise.clone(), guidance_scale=4.5, **settings, **options
        ).images

    alone = torch.cat((draw([LONG], 2, noise[:2]), draw([SHORT], 2, noise[2:])))
    for said, drawn in (
        ("2 images a prompt", draw([LONG, SHORT], 2, noise)),
        ("each prompt twice", draw([LONG, LONG, SHORT, SHORT], 1, noise)),
    ):
        off = (drawn - alone).flatten(1).norm(dim=1) / alone.flatten(1).norm(dim=1)
        print(f"{type(pipeline).__name__}, {said}:", *("alone" if part < 1e-3 else "other" for part in off))
PY
cat >"$folder/expected" <<'OUT'
PixArtAlphaPipeline, 2 images a prompt: alone alone alone alone
PixArtAlphaPipeline, each prompt twice: alone alone alone alone
SanaPipeline, 2 images a prompt: alone other other alone
SanaPipeline, each prompt twice: alone alone alone alone
Lumina2Pipeline, 2 images a prompt: alone other other alone
Lumina2Pipeline, each prompt twice: alone alone alone alone
HunyuanDiTPipeline, 2 images a prompt: alone other other alone
HunyuanDiTPipeline, each prompt twice: alone alone alone alone
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
