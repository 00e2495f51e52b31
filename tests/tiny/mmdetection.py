"""Every tensor of mmdetection's Mask2Former and its place in transformers' model, written out layer by layer."""

from dataclasses import dataclass
from typing import Any

_SWIN = "model.pixel_level_module.encoder.swin"
_NORMS = "model.pixel_level_module.encoder.hidden_states_norms"
_PIXELS = "model.pixel_level_module.decoder"
_QUERIES = "model.transformer_module"


@dataclass(frozen=True)
class Entry:
    """The place in transformers' model of one tensor of the file."""

    source: str
    targets: tuple[str, ...]
    """Several share the rows of the source evenly, in this order."""
    merging: bool = False
    """The last axis is in the order of a patch merging."""


def key_table(config: Any) -> list[Entry]:
    """List every tensor of a checkpoint of this shape, by its name in mmdetection 2."""
    depths: list[int] = config.backbone_config.depths
    return [
        *_backbone(depths),
        *_pixel_decoder(config.encoder_layers, levels=len(depths) - 1),
        *_query_decoder(config.decoder_layers - 1),  # transformers counts the prediction before the first layer
    ]


def _both(source: str, *targets: str, merging: bool = False) -> list[Entry]:
    """Return the entries of the weight and the bias of a layer."""
    return [
        Entry(f"{source}.{kind}", tuple(f"{target}.{kind}" for target in targets), merging)
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
            entries += _both(f"{there}.downsample.norm", f"{here}.downsample.norm", merging=True)
            reduction = "downsample.reduction.weight"
            entries += [Entry(f"{there}.{reduction}", (f"{here}.{reduction}",), True)]
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
