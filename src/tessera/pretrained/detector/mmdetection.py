"""mmdetection's Mask2Former checkpoint as transformers' model: the detector that GenEval's verdicts rest on.

`mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco` (Apache-2.0), in the names of mmdetection 2 or 3. Every tensor of the
file goes to its place and every place gets one, or it is an error.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tessera.config import UserError
from tessera.pretrained.tensors import check_state, load_tensors, renamed, some_of

PUBLISHED = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"
"""The checkpoint as mmdetection publishes it."""
DETECTOR = "the detector, mmdetection's mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco"
_SWIN = "model.pixel_level_module.encoder.swin"
_PIXELS = "model.pixel_level_module.decoder"
_QUERIES = "model.transformer_module"
# Made anew by either library, or never used: in the file, and in the model.
_NOT_TAKEN = re.compile(r"\.relative_position_index$|^data_preprocessor\.(mean|std)$")
_NOT_GIVEN = re.compile(rf"^{re.escape(_SWIN)}\.layernorm\.|^criterion\.|relative_position_index$")

_BLOCK = r"backbone\.stages\.(\d+)\.blocks\.(\d+)\."
_OUR_BLOCK = rf"{_SWIN}.encoder.layers.\1.blocks.\2."
_HEAD = r"panoptic_head\."
_ENCODER, _OUR_ENCODER = rf"{_HEAD}pixel_decoder\.encoder\.layers\.(\d+)\.", rf"{_PIXELS}.encoder.layers.\1."
_DECODER, _OUR_DECODER = rf"{_HEAD}transformer_decoder\.layers\.(\d+)\.", rf"{_QUERIES}.decoder.layers.\1."
_NAMES = [
    (r"backbone\.patch_embed\.projection\.", rf"{_SWIN}.embeddings.patch_embeddings.projection."),
    (r"backbone\.patch_embed\.norm\.", rf"{_SWIN}.embeddings.norm."),
    (rf"{_BLOCK}norm1\.", rf"{_OUR_BLOCK}layernorm_before."),
    (rf"{_BLOCK}norm2\.", rf"{_OUR_BLOCK}layernorm_after."),
    (rf"{_BLOCK}attn\.w_msa\.relative_position", rf"{_OUR_BLOCK}attention.relative_position_bias.relative_position"),
    (rf"{_BLOCK}attn\.w_msa\.qkv\.", rf"{_OUR_BLOCK}attention.QKV_proj."),
    (rf"{_BLOCK}attn\.w_msa\.proj\.", rf"{_OUR_BLOCK}attention.o_proj."),
    (rf"{_BLOCK}ffn\.layers\.0\.0\.", rf"{_OUR_BLOCK}mlp.fc1."),
    (rf"{_BLOCK}ffn\.layers\.1\.", rf"{_OUR_BLOCK}mlp.fc2."),
    (r"backbone\.stages\.(\d+)\.downsample\.", rf"{_SWIN}.encoder.layers.\1.downsample."),
    *(
        (rf"backbone\.norm{stage}\.", f"model.pixel_level_module.encoder.hidden_states_norms.stage{stage + 1}.")
        for stage in range(4)
    ),
    (rf"{_HEAD}pixel_decoder\.level_encoding\.weight", f"{_PIXELS}.level_embed"),
    (rf"{_HEAD}pixel_decoder\.input_convs\.(\d+)\.conv\.", rf"{_PIXELS}.input_projections.\1.0."),
    (rf"{_HEAD}pixel_decoder\.input_convs\.(\d+)\.gn\.", rf"{_PIXELS}.input_projections.\1.1."),
    (rf"{_ENCODER}(?:attentions\.0|self_attn)\.", rf"{_OUR_ENCODER}self_attn."),
    (rf"{_ENCODER}norms\.0\.", rf"{_OUR_ENCODER}self_attn_layer_norm."),
    (rf"{_ENCODER}norms\.1\.", rf"{_OUR_ENCODER}final_layer_norm."),
    (rf"{_ENCODER}ffns?(?:\.0)?\.layers\.0\.0\.", rf"{_OUR_ENCODER}fc1."),
    (rf"{_ENCODER}ffns?(?:\.0)?\.layers\.1\.", rf"{_OUR_ENCODER}fc2."),
    (rf"{_HEAD}pixel_decoder\.lateral_convs\.0\.conv\.", f"{_PIXELS}.adapter_1.0."),
    (rf"{_HEAD}pixel_decoder\.lateral_convs\.0\.gn\.", f"{_PIXELS}.adapter_1.1."),
    (rf"{_HEAD}pixel_decoder\.output_convs\.0\.conv\.", f"{_PIXELS}.layer_1.0."),
    (rf"{_HEAD}pixel_decoder\.output_convs\.0\.gn\.", f"{_PIXELS}.layer_1.1."),
    (rf"{_HEAD}pixel_decoder\.mask_feature\.", f"{_PIXELS}.mask_projection."),
    (rf"{_HEAD}query_embed\.", f"{_QUERIES}.queries_embedder."),
    (rf"{_HEAD}query_feat\.", f"{_QUERIES}.queries_features."),
    (rf"{_HEAD}level_embed\.", f"{_QUERIES}.level_embed."),
    (rf"{_DECODER}(?:attentions\.0|cross_attn)\.attn\.", rf"{_OUR_DECODER}cross_attn."),
    (rf"{_DECODER}(?:attentions\.1|self_attn)\.attn\.in_proj_", rf"{_OUR_DECODER}self_attn.QKV_proj."),
    (rf"{_DECODER}(?:attentions\.1|self_attn)\.attn\.", rf"{_OUR_DECODER}self_attn."),
    (rf"{_DECODER}norms\.0\.", rf"{_OUR_DECODER}cross_attn_layer_norm."),
    (rf"{_DECODER}norms\.1\.", rf"{_OUR_DECODER}self_attn_layer_norm."),
    (rf"{_DECODER}norms\.2\.", rf"{_OUR_DECODER}final_layer_norm."),
    (rf"{_DECODER}ffns?(?:\.0)?\.layers\.0\.0\.", rf"{_OUR_DECODER}fc1."),
    (rf"{_DECODER}ffns?(?:\.0)?\.layers\.1\.", rf"{_OUR_DECODER}fc2."),
    (rf"{_HEAD}transformer_decoder\.post_norm\.", f"{_QUERIES}.decoder.layernorm."),
    *(  # with ReLUs between them
        (rf"{_HEAD}mask_embed\.{2 * n}\.", f"{_QUERIES}.decoder.mask_predictor.mask_embedder.{n}.0.") for n in range(3)
    ),
    (rf"{_HEAD}cls_embed\.", "class_predictor."),
]
"""Beginnings of names in the file, as patterns, and in the model. QKV: the rows are queries, keys and values."""


def swin_s_config() -> Any:
    """Return the shape of the published checkpoint: Swin-S, 100 queries, COCO's 80 classes."""
    from transformers import Mask2FormerConfig, SwinConfig

    swin: dict[str, Any] = {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
    swin["out_features"] = ["stage1", "stage2", "stage3", "stage4"]
    rest: dict[str, Any] = {"num_labels": 80}  # the rest is the default of transformers
    return Mask2FormerConfig(backbone_config=SwinConfig(**swin), **rest)


def load_mmdetection(path: Path, config: Any = None) -> Any:
    """Load an mmdetection checkpoint (.pth or .safetensors) into transformers' Mask2Former, frozen, in eval mode.

    config: the shape of another checkpoint; None = `swin_s_config()`. Raises UserError for a file that is no
    checkpoint, or one of another model.
    """
    from transformers import Mask2FormerForUniversalSegmentation

    model = Mask2FormerForUniversalSegmentation(config or swin_s_config())
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if not _NOT_GIVEN.search(name)}
    converted = convert(load_tensors(path, "detector"), str(path))
    check_state(converted, shapes, path, DETECTOR)
    model.load_state_dict(converted, strict=False)
    return model.eval().requires_grad_(False)


def convert(checkpoint: Mapping[str, Tensor], where: str = "checkpoint") -> dict[str, Tensor]:
    """Return mmdetection's state dict under transformers' names. `where` starts every message of UserError."""
    converted, unknown = {}, []
    for name, tensor in checkpoint.items():
        if _NOT_TAKEN.search(name):
            continue
        targets = new_names(name)
        if not targets:
            unknown.append(name)
        elif not tensor.is_floating_point() or len(tensor) % len(targets):
            raise UserError(f"{where}: is not {DETECTOR}: {name} is {tensor.dtype} {tuple(tensor.shape)}")
        else:
            tensor = merging_order(tensor) if ".downsample." in name else tensor
            converted.update(zip(targets, (part.clone() for part in tensor.chunk(len(targets)))))
    if unknown:
        raise UserError(f"{where}: these are not the weights of {DETECTOR}: unexpected {some_of(unknown)}")
    return converted


def new_names(name: str) -> list[str]:
    """Return transformers' name of one of mmdetection's tensors: three for queries, keys, values; none if unknown."""
    ours = renamed(name, _NAMES)
    return [] if ours is None else [ours.replace("QKV", part) for part in "qkv"] if "QKV" in ours else [ours]


def merging_order(tensor: Tensor) -> Tensor:
    """Bring the last axis (4 C) from mmdetection's order of a patch merging's inputs to transformers'.

    The four neighbors' channels are one unfolded block there (channel, row, column), here (column, row, channel).
    """
    *rest, width = tensor.shape
    if width % 4:
        raise UserError(f"a patch merging has 4 C inputs, not {width}: another detector's checkpoint")
    blocks = tensor.reshape(*rest, width // 4, 2, 2)  # (..., C, row, column)
    return blocks.movedim((-1, -2), (-3, -2)).reshape(tensor.shape)  # (..., column, row, C)
