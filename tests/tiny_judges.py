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
    """A CLIP of 16 px pictures and single letters."""
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
