"""Tiny random text-to-image pipelines of the classes that the paper's tables name, saved as diffusers saves them."""

from pathlib import Path
from typing import Any

import torch

from tiny.judges import save_clip


def _clip_text(folder: Path, width: int = 16, **changes: Any) -> tuple[Any, Any]:
    """(configuration of a CLIP's text half, its tokenizer), over single letters."""
    from transformers import AutoTokenizer, CLIPConfig

    config = CLIPConfig.from_pretrained(save_clip(folder)).text_config
    for name, value in {"hidden_size": width, "projection_dim": width, **changes}.items():
        setattr(config, name, value)
    return config, AutoTokenizer.from_pretrained(folder)


def _t5() -> tuple[Any, Any]:
    """(a T5 encoder of width 16, its tokenizer), over single letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    vocab = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz "])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    config = T5Config(vocab_size=len(vocab), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return T5EncoderModel(config), tokenizer


def _vae(**changes: Any) -> Any:
    """Two pixels a latent."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        **changes,
    )


def _unet(width: int = 16, **changes: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
        attention_head_dim=8,
        **changes,
    )


def _shaken(network: Any) -> Any:
    """Transformers begin at zero, and would draw the same for every text."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network


def save_stable_diffusion(folder: Path) -> Path:
    """Stable Diffusion 1.5 and 2.1: a U-Net with cross-attention, CLIP; here with noise in every step."""
    from diffusers import EulerAncestralDiscreteScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    config, tokenizer = _clip_text(folder.with_name("clip"))
    torch.manual_seed(0)
    StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(config),
        tokenizer=tokenizer,
        unet=_unet(),
        scheduler=EulerAncestralDiscreteScheduler(steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def save_xl(folder: Path) -> Path:
    """Stable Diffusion XL: two CLIPs, and the size of the image as a condition."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    config, tokenizer = _clip_text(folder.with_name("clip"))
    torch.manual_seed(0)
    size_width = 8
    StableDiffusionXLPipeline(
        vae=_vae(),
        text_encoder=CLIPTextModel(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            width=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=size_width,
            projection_class_embeddings_input_dim=16 + 6 * size_width,
            transformer_layers_per_block=(1, 1),
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def save_3(folder: Path) -> Path:
    """Stable Diffusion 3: a transformer over both modalities, flow matching, two CLIPs and T5."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    config, tokenizer = _clip_text(folder.with_name("clip"), width=8)
    torch.manual_seed(0)
    t5, t5_tokenizer = _t5()
    network = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16,
        pos_embed_max_size=16,
    )  # fmt: skip
    StableDiffusion3Pipeline(
        transformer=_shaken(network),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(shift_factor=0.0609),
        text_encoder=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer_2=tokenizer,
        text_encoder_3=t5,
        tokenizer_3=t5_tokenizer,
    ).save_pretrained(folder)
    return folder


def save_pixart(folder: Path) -> Path:
    """PixArt-alpha: a transformer, T5."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    torch.manual_seed(0)
    t5, tokenizer = _t5()
    network = PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, caption_channels=16,
        in_channels=4, out_channels=8, cross_attention_dim=16, norm_num_groups=4, use_additional_conditions=False,
    )  # fmt: skip
    PixArtAlphaPipeline(
        tokenizer=tokenizer,
        text_encoder=t5,
        vae=_vae(),
        transformer=_shaken(network),
        scheduler=DPMSolverMultistepScheduler(),
    ).save_pretrained(folder)
    return folder


def save_flux(folder: Path) -> Path:
    """FLUX.1: a transformer over both modalities with guidance as a condition, timesteps shifted by the size, CLIP
    and T5."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    config, tokenizer = _clip_text(folder.with_name("clip"))
    torch.manual_seed(0)
    t5, t5_tokenizer = _t5()
    network = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4), guidance_embeds=True,
    )  # fmt: skip
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=_vae(shift_factor=0.1159),
        text_encoder=CLIPTextModel(config),
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer,
        transformer=_shaken(network),
    ).save_pretrained(folder)
    return folder


SAVE = {
    "StableDiffusionPipeline": save_stable_diffusion,
    "StableDiffusionXLPipeline": save_xl,
    "StableDiffusion3Pipeline": save_3,
    "PixArtAlphaPipeline": save_pixart,
    "FluxPipeline": save_flux,
}
"""What diffusers calls them -> what saves one into a folder, which it gives back."""
