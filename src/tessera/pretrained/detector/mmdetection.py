"""mmdetection's Mask2Former checkpoint as transformers' model: the detector that GenEval's verdicts rest on.

`mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco` (Apache-2.0), in the names of mmdetection 2 or 3. Every tensor of the
file goes to its place and every place gets one, or it is an error.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tessera.config import UserError
from tessera.pretrained.load import check_state, load_tensors

PUBLISHED = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth"
"""The checkpoint as mmdetection publishes it."""
_SWIN = "model.pixel_level_module.encoder.swin"
_NORMS = "model.pixel_level_module.encoder.hidden_states_norms"
_PIXELS = "model.pixel_level_module.decoder"
_QUERIES = "model.transformer_module"
# Made anew by either library, or never used: in the file, and in the model.
_NOT_TAKEN = re.compile(r"\.relative_position_index$|^data_preprocessor\.(mean|std)$")
_NOT_GIVEN = re.compile(rf"^{re.escape(_SWIN)}\.layernorm\.|^criterion\.|relative_position_index$")


@dataclass(frozen=True)
class Entry:
    """The place in transformers' model of one tensor of the file."""

    source: str
    targets: tuple[str, ...]
    """Several share the rows of the source evenly, in this order."""
    change: Callable[[Tensor], Tensor] | None = None
    """Applied to it first. None = nothing."""


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
    converted = convert(load_tensors(path, "detector"), model.config, str(path))
    check_state(converted, shapes, path, "the detector")
    model.load_state_dict(converted, strict=False)
    return model.eval().requires_grad_(False)


def convert(checkpoint: Mapping[str, Tensor], config: Any, where: str = "checkpoint") -> dict[str, Any]:
    """Return mmdetection's state dict under transformers' names. `where` starts every message of UserError."""
    own = {_second_name(name): tensor for name, tensor in checkpoint.items() if not _NOT_TAKEN.search(name)}
    entries = key_table(config)
    detector = "the detector (mmdetection's mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco)"
    check_state(own, dict.fromkeys(entry.source for entry in entries), where, detector)
    converted = {}
    for entry in entries:
        tensor = own[entry.source]
        if not tensor.is_floating_point() or len(tensor) % len(entry.targets):
            raise UserError(f"{where}: is not the detector: {entry.source} is {tensor.dtype} {tuple(tensor.shape)}")
        changed = tensor if entry.change is None else entry.change(tensor)
        converted.update(zip(entry.targets, (part.clone() for part in changed.chunk(len(entry.targets)))))
    return converted


def key_table(config: Any) -> list[Entry]:
    """List every tensor of a checkpoint of this shape, by its name in mmdetection 2."""
    depths: list[int] = config.backbone_config.depths
    return [
        *_backbone(depths),
        *_pixel_decoder(config.encoder_layers, levels=len(depths) - 1),
        *_query_decoder(config.decoder_layers - 1),  # transformers counts the prediction before the first layer
    ]


def merging_order(tensor: Tensor) -> Tensor:
    """Bring the last axis (4 C) from mmdetection's order of a patch merging's inputs to transformers'.

    The four neighbors' channels are one unfolded block there (channel, row, column), here (column, row, channel).
    """
    *rest, width = tensor.shape
    if width % 4:
        raise UserError(f"a patch merging has 4 C inputs, not {width}: another detector's checkpoint")
    blocks = tensor.reshape(*rest, width // 4, 2, 2)  # (..., C, row, column)
    return blocks.movedim((-1, -2), (-3, -2)).reshape(tensor.shape)  # (..., column, row, C)


def _second_name(name: str) -> str:
    """Return mmdetection 3's name of a tensor in mmdetection 2's way; others as they are."""
    name = name.replace(".ffn.layers.", ".ffns.0.layers.") if name.startswith("panoptic_head.") else name
    name = re.sub(r"^(panoptic_head\.pixel_decoder\.encoder\.layers\.\d+)\.self_attn\.", r"\1.attentions.0.", name)
    name = re.sub(r"^(panoptic_head\.transformer_decoder\.layers\.\d+)\.cross_attn\.", r"\1.attentions.0.", name)
    return re.sub(r"^(panoptic_head\.transformer_decoder\.layers\.\d+)\.self_attn\.", r"\1.attentions.1.", name)


def _both(source: str, *targets: str, change: Callable[[Tensor], Tensor] | None = None) -> list[Entry]:
    """Return the entries of the weight and the bias of a layer."""
    return [
        Entry(f"{source}.{kind}", tuple(f"{target}.{kind}" for target in targets), change)
        for kind in ("weight", "bias")
    ]


def _backbone(depths: list[int]) -> list[Entry]:
    entries = _both("backbone.patch_embed.projection", f"{_SWIN}.embeddings.patch_embeddings.projection")
    entries += _both("backbone.patch_embed.norm", f"{_SWIN}.embeddings.norm")
    for stage, depth in enumerate(depths):
        there, here = f"backbone.stages.{stage}", f"{_SWIN}.encoder.layers.{stage}"
        for block in range(depth):
            source, target = f"{there}.blocks.{block}", f"{here}.blocks.{block}"
            heads = [f"{target}.attention.{name}_proj" for name in "qkv"]
            table = "relative_position_bias_table"
            entries += _both(f"{source}.norm1", f"{target}.layernorm_before")
            entries += [Entry(f"{source}.attn.w_msa.{table}", (f"{target}.attention.relative_position_bias.{table}",))]
            entries += _both(f"{source}.attn.w_msa.qkv", *heads)
            entries += _both(f"{source}.attn.w_msa.proj", f"{target}.attention.o_proj")
            entries += _both(f"{source}.norm2", f"{target}.layernorm_after")
            entries += _both(f"{source}.ffn.layers.0.0", f"{target}.mlp.fc1")
            entries += _both(f"{source}.ffn.layers.1", f"{target}.mlp.fc2")
        if stage < len(depths) - 1:
            entries += _both(f"{there}.downsample.norm", f"{here}.downsample.norm", change=merging_order)
            reduction = "downsample.reduction.weight"
            entries += [Entry(f"{there}.{reduction}", (f"{here}.{reduction}",), merging_order)]
        entries += _both(f"backbone.norm{stage}", f"{_NORMS}.stage{stage + 1}")
    return entries


def _pixel_decoder(layers: int, levels: int) -> list[Entry]:
    head = "panoptic_head.pixel_decoder"
    entries = [Entry(f"{head}.level_encoding.weight", (f"{_PIXELS}.level_embed",))]
    for level in range(levels):
        entries += _both(f"{head}.input_convs.{level}.conv", f"{_PIXELS}.input_projections.{level}.0")
        entries += _both(f"{head}.input_convs.{level}.gn", f"{_PIXELS}.input_projections.{level}.1")
    for layer in range(layers):
        source, target = f"{head}.encoder.layers.{layer}", f"{_PIXELS}.encoder.layers.{layer}"
        for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            entries += _both(f"{source}.attentions.0.{name}", f"{target}.self_attn.{name}")
        entries += _both(f"{source}.norms.0", f"{target}.self_attn_layer_norm")
        entries += _feed_forward(source, target)
        entries += _both(f"{source}.norms.1", f"{target}.final_layer_norm")
    for source, target in (("lateral_convs", "adapter_1"), ("output_convs", "layer_1")):
        entries += [Entry(f"{head}.{source}.0.conv.weight", (f"{_PIXELS}.{target}.0.weight",))]
        entries += _both(f"{head}.{source}.0.gn", f"{_PIXELS}.{target}.1")
    return entries + _both(f"{head}.mask_feature", f"{_PIXELS}.mask_projection")


def _query_decoder(layers: int) -> list[Entry]:
    head = "panoptic_head"
    entries = [
        Entry(f"{head}.query_embed.weight", (f"{_QUERIES}.queries_embedder.weight",)),
        Entry(f"{head}.query_feat.weight", (f"{_QUERIES}.queries_features.weight",)),
        Entry(f"{head}.level_embed.weight", (f"{_QUERIES}.level_embed.weight",)),
    ]
    for layer in range(layers):
        source, target = f"{head}.transformer_decoder.layers.{layer}", f"{_QUERIES}.decoder.layers.{layer}"
        cross, own = f"{source}.attentions.0.attn", f"{source}.attentions.1.attn"
        for kind in ("weight", "bias"):
            entries += [
                Entry(f"{cross}.in_proj_{kind}", (f"{target}.cross_attn.in_proj_{kind}",)),
                Entry(f"{own}.in_proj_{kind}", tuple(f"{target}.self_attn.{name}_proj.{kind}" for name in "qkv")),
            ]
        entries += _both(f"{cross}.out_proj", f"{target}.cross_attn.out_proj")
        entries += _both(f"{own}.out_proj", f"{target}.self_attn.out_proj")
        for number, name in enumerate(("cross_attn_layer_norm", "self_attn_layer_norm", "final_layer_norm")):
            entries += _both(f"{source}.norms.{number}", f"{target}.{name}")
        entries += _feed_forward(source, target)
    entries += _both(f"{head}.transformer_decoder.post_norm", f"{_QUERIES}.decoder.layernorm")
    for number in range(3):  # with ReLUs between them
        mask_embedder = f"{_QUERIES}.decoder.mask_predictor.mask_embedder.{number}.0"
        entries += _both(f"{head}.mask_embed.{2 * number}", mask_embedder)
    return entries + _both(f"{head}.cls_embed", "class_predictor")


def _feed_forward(source: str, target: str) -> list[Entry]:
    first, second = "ffns.0.layers.0.0", "ffns.0.layers.1"
    return _both(f"{source}.{first}", f"{target}.fc1") + _both(f"{source}.{second}", f"{target}.fc2")
