"""Tiny random networks of the classes that the judges are: built here, saved as their libraries save them."""

import string
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    SwinConfig,
)


def detector_config() -> Mask2FormerConfig:
    """Of the smallest Mask2Former that its library allows: width 32, for it has 32 groups of channels."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    swin = SwinConfig(embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 1, 2, 2], window_size=7, out_features=stages)
    return Mask2FormerConfig(
        backbone_config=swin,
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=48,
        dim_feedforward=40,
        num_attention_heads=2,
        encoder_layers=2,
        decoder_layers=4,
        num_queries=9,
        num_labels=80,
    )


def detector(seed: int = 0) -> Mask2FormerForUniversalSegmentation:
    torch.manual_seed(seed)
    model = Mask2FormerForUniversalSegmentation(detector_config()).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # many start at zero, which would hide a mistake
            parameter += 0.1 * torch.randn_like(parameter)
        model.class_predictor.weight *= 30  # sure of something
    return model


def save_detector(directory: Path) -> Path:
    detector().save_pretrained(directory)
    return directory


def save_clip(directory: Path, size: int = 16) -> Path:
    """A CLIP of 16 px images and single letters."""
    letters = sorted(string.ascii_lowercase + string.digits + "-.,'!?()")
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {name: number for number, name in enumerate(names)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": len(vocab),
        "max_position_embeddings": 77,
        "bos_token_id": vocab["<|startoftext|>"],
        "eos_token_id": vocab["<|endoftext|>"],
        "pad_token_id": vocab["<|endoftext|>"],
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": size,
        "patch_size": 4,
    }
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[DEC]",
    "[ENC]",
    "yes",
    "no",
    "is",
    "there",
    "a",
    "dog",
    "cat",
    "?",
]


def save_blip(directory: Path) -> Path:
    """A BLIP that answers questions, over a handful of words."""
    from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering

    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "encoder_hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": WORDS.index("[DEC]"),
        "pad_token_id": WORDS.index("[PAD]"),
        "eos_token_id": WORDS.index("[SEP]"),
        "sep_token_id": WORDS.index("[SEP]"),
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    torch.manual_seed(1)
    model = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]


def save_qwen_vl(directory: Path, three: bool = False) -> Path:
    """A Qwen2.5-VL, or a Qwen3-VL, over single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2VLImageProcessorPil,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
    )

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(letters)}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[word for word in QWEN_SPECIAL if word not in ("<|im_end|>", "<|endoftext|>")],
    )
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in QWEN_SPECIAL}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6},
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    of_three = {"deepstack_visual_indexes": [0], "num_position_embeddings": 16, "patch_size": 14}
    vision |= of_three if three else {"fullatt_block_indexes": [1], "window_size": 56}
    text |= {"head_dim": 16} if three else {}
    config = (Qwen3VLConfig if three else Qwen2_5_VLConfig)(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    model = (Qwen3VLForConditionalGeneration if three else Qwen2_5_VLForConditionalGeneration)(config)
    if three:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    Qwen2VLImageProcessorPil(max_pixels=56 * 56).save_pretrained(directory)
    return directory


def save_llama(directory: Path, chat: bool = True) -> Path:
    """A Llama over single letters that chats."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = [*string.ascii_letters, *" .,:;()\"'-"]
    inner = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate([*letters, "<unk>", "<end>"])}, merges=[], unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", unk_token="<unk>")
    if chat:
        tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}:"
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=2048,
                         bos_token_id=None, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
