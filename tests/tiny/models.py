"""Tiny random models of the classes that are loaded for real, saved as their libraries save them."""

import string
from pathlib import Path

import torch

WORDS = ["\u2581a", "\u2581an", "\u2581of", "\u2581image", "\u2581red", "\u2581cat", "\u2581dog", "\u2581left", "ing"]


def save_vae(folder: Path, seed: int = 0, cls: str = "AutoencoderKL", **changes) -> Path:
    """An AutoencoderKL of Stable Diffusion's shape, but 4 channels a group and 3 levels: 4 pixels a latent; or one of
    another class with the settings `changes`."""
    import diffusers

    torch.manual_seed(seed)
    settings = {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "block_out_channels": [8, 8, 16],
        "norm_num_groups": 4,
        "latent_channels": 4,
    }
    vae = getattr(diffusers, cls)(**(settings | changes if cls == "AutoencoderKL" else changes))
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    vae.save_pretrained(folder)
    return folder


def t5_tokenizer():
    from transformers import T5Tokenizer

    letters = [(letter, -8.0) for letter in string.ascii_lowercase + ".,'"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -4.0), *letters]
    vocab += [(word, -3.0) for word in WORDS]
    return T5Tokenizer(vocab=vocab, extra_ids=0)


def save_t5(folder: Path, seed: int = 0, encoder_only: bool = False, width: int = 64) -> Path:
    """A T5 of Flan-T5's shape (gated GELU, untied) with its tokenizer. The whole one has a decoder too."""
    from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

    torch.manual_seed(seed)
    tokenizer = t5_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    model = (T5EncoderModel if encoder_only else T5ForConditionalGeneration)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_text_encoder(folder: Path, kind: str, seed: int = 0) -> Path:
    """A tiny text encoder of 16 positions: "umt5", "clip", "bert" or "qwen3", with a tokenizer of whole words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(seed)
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "cat", "dog", "left", "of", *map(str, range(30))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    around = {"umt5": "$A [SEP]", "qwen3": "$A"}.get(kind, "[CLS] $A [SEP]")
    tokenizer.post_processor = processors.TemplateProcessing(around, special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    special = {"pad_token": "[PAD]", "eos_token": "[SEP]", "unk_token": "[UNK]"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    common = {"vocab_size": len(words), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    usual = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    usual |= {"max_position_embeddings": 16}
    if kind == "umt5":
        shape = {"d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        model = transformers.UMT5EncoderModel(transformers.UMT5Config(**common, **shape))
    elif kind == "clip":
        model = transformers.CLIPTextModel(transformers.CLIPTextConfig(**common, **usual))
    elif kind == "bert":
        model = transformers.BertForMaskedLM(transformers.BertConfig(**common, **usual))
    else:
        more = {"num_key_value_heads": 1, "head_dim": 12}
        model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**common, **usual, **more))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


CHAT_TEMPLATE = (
    "{% for message in messages %}<s> user {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def chat_tokenizer():
    """Whole words, with an image token and a chat template."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "user", "assistant", "describe", "this", "image", ".", "the"]
    words += [f"word{i}" for i in range(52)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, additional_special_tokens=["<image>"])
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_llava_next(folder: Path, seed: int = 0) -> Path:
    """A LLaVA-NeXT that sees 24 px with patches of 8: 9 tokens for a whole image, a grid of 2 x 2 crops."""
    import json

    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration

    torch.manual_seed(seed)
    tokenizer = chat_tokenizer()
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=24,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=24,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        ),
        image_token_id=4,
        image_grid_pinpoints=[[48, 48]],
        image_seq_length=9,
    )
    model = LlavaNextForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    told = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "crop_size": {"height": 24, "width": 24}}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return folder
