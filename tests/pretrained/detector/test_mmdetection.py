"""The converter of mmdetection's detector: a bijection of names, and the same function where the layouts differ."""

import re

import pytest
import torch
from torch.nn import functional as F

from tessera.config import UserError
from tessera.pretrained.detector.mmdetection import convert, load_mmdetection, merging_order, new_names, swin_s_config
from tiny.judges import detector, detector_config
from tiny.mmdetection import key_table

# One name of each kind in mmdetection's own file, listed here by hand.
HAND = [
    "backbone.patch_embed.projection.weight",
    "backbone.patch_embed.norm.bias",
    "backbone.stages.1.blocks.1.attn.w_msa.relative_position_bias_table",
    "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight",
    "backbone.stages.0.blocks.0.attn.w_msa.proj.bias",
    "backbone.stages.0.blocks.0.norm1.weight",
    "backbone.stages.0.blocks.0.norm2.weight",
    "backbone.stages.0.blocks.0.ffn.layers.0.0.weight",
    "backbone.stages.0.blocks.0.ffn.layers.1.weight",
    "backbone.stages.2.downsample.reduction.weight",
    "backbone.stages.2.downsample.norm.weight",
    "backbone.norm0.weight",
    "backbone.norm3.bias",
    "panoptic_head.pixel_decoder.input_convs.2.conv.weight",
    "panoptic_head.pixel_decoder.input_convs.0.gn.weight",
    "panoptic_head.pixel_decoder.encoder.layers.1.attentions.0.sampling_offsets.weight",
    "panoptic_head.pixel_decoder.encoder.layers.1.attentions.0.attention_weights.bias",
    "panoptic_head.pixel_decoder.encoder.layers.1.attentions.0.value_proj.weight",
    "panoptic_head.pixel_decoder.encoder.layers.1.attentions.0.output_proj.weight",
    "panoptic_head.pixel_decoder.encoder.layers.1.ffns.0.layers.0.0.weight",
    "panoptic_head.pixel_decoder.encoder.layers.1.ffns.0.layers.1.weight",
    "panoptic_head.pixel_decoder.encoder.layers.1.norms.1.weight",
    "panoptic_head.pixel_decoder.level_encoding.weight",
    "panoptic_head.pixel_decoder.lateral_convs.0.conv.weight",
    "panoptic_head.pixel_decoder.lateral_convs.0.gn.bias",
    "panoptic_head.pixel_decoder.output_convs.0.conv.weight",
    "panoptic_head.pixel_decoder.output_convs.0.gn.weight",
    "panoptic_head.pixel_decoder.mask_feature.weight",
    "panoptic_head.transformer_decoder.layers.2.attentions.0.attn.in_proj_weight",
    "panoptic_head.transformer_decoder.layers.2.attentions.1.attn.in_proj_bias",
    "panoptic_head.transformer_decoder.layers.2.attentions.1.attn.out_proj.weight",
    "panoptic_head.transformer_decoder.layers.2.ffns.0.layers.0.0.weight",
    "panoptic_head.transformer_decoder.layers.2.ffns.0.layers.1.weight",
    "panoptic_head.transformer_decoder.layers.2.norms.2.weight",
    "panoptic_head.transformer_decoder.post_norm.weight",
    "panoptic_head.query_embed.weight",
    "panoptic_head.query_feat.weight",
    "panoptic_head.level_embed.weight",
    "panoptic_head.cls_embed.weight",
    "panoptic_head.mask_embed.4.bias",
]


def checkpoint(model, config=None):
    """mmdetection's state dict of a transformers model: the table read backwards, merging by an independent formula."""
    state, made = model.state_dict(), {}
    for entry in key_table(config or model.config):
        tensor = torch.cat([state[name] for name in entry.targets])
        if entry.merging:
            width = tensor.shape[-1] // 4
            # mmdetection's input c * 4 + row * 2 + column is transformers' (column * 2 + row) * C + c.
            order = [(column * 2 + row) * width + c for c in range(width) for row in (0, 1) for column in (0, 1)]
            tensor = tensor[..., order]
        made[entry.source] = tensor.clone()
    return made


def test_every_tensor_has_one_place():
    model = detector()
    entries = key_table(model.config)
    sources, targets = [e.source for e in entries], [name for e in entries for name in e.targets]
    assert len(set(sources)) == len(sources)
    assert len(set(targets)) == len(targets)
    rest = model.state_dict().keys() - set(targets)
    assert set(targets) <= model.state_dict().keys()
    prefix = "model.pixel_level_module.encoder.swin"
    assert rest == {f"{prefix}.layernorm.weight", f"{prefix}.layernorm.bias", "criterion.empty_weight"}
    assert set(HAND) <= set(sources)
    assert all(new_names(entry.source) == list(entry.targets) for entry in entries)
    kinds = {re.sub(r"\d+", "N", re.sub(r"weight|bias", "T", name)) for name in sources}
    assert kinds == {re.sub(r"\d+", "N", re.sub(r"weight|bias", "T", name)) for name in HAND}


def test_there_and_back_is_the_same_model():
    model = detector()
    converted = convert(checkpoint(model))
    state = model.state_dict()
    assert len(converted) == sum(len(entry.targets) for entry in key_table(model.config))
    assert all(torch.equal(state[name], tensor) for name, tensor in converted.items())


def test_merging_order_gives_the_same_patch_merging():
    torch.manual_seed(0)
    channels, height, width = 3, 4, 6
    x = torch.randn(2, channels, height, width)
    norm, reduction = torch.nn.LayerNorm(4 * channels), torch.nn.Linear(4 * channels, 5, bias=False)
    with torch.no_grad():
        norm.weight.normal_(), norm.bias.normal_()
    theirs = reduction(norm(F.unfold(x, kernel_size=2, stride=2).transpose(1, 2)))  # as mmdetection merges

    from transformers.models.swin.modeling_swin import SwinPatchMerging

    ours = SwinPatchMerging(channels)
    ours.reduction = torch.nn.Linear(4 * channels, 5, bias=False)
    ours.norm.weight.data = merging_order(norm.weight.data)
    ours.norm.bias.data = merging_order(norm.bias.data)
    ours.reduction.weight.data = merging_order(reduction.weight.data)
    torch.testing.assert_close(ours(x.flatten(2).transpose(1, 2), (height, width)), theirs)


def test_names_of_mmdetection_3_are_known():
    model = detector()
    renamed = {}
    for name, tensor in checkpoint(model).items():
        if name.startswith("panoptic_head.transformer_decoder"):
            name = name.replace("attentions.0", "cross_attn").replace("attentions.1", "self_attn")
        name = name.replace(".attentions.0.", ".self_attn.") if ".encoder." in name else name
        renamed[name.replace(".ffns.0.", ".ffn.")] = tensor
    converted = convert(renamed)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in converted.items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_loads_and_draws_the_same(tmp_path, suffix):
    model = detector()
    tensors = checkpoint(model)
    tensors["backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"] = torch.arange(49 * 49).view(49, 49)
    path = tmp_path / f"detector{suffix}"
    if suffix == ".pth":
        torch.save({"meta": {"epoch": 50, "CLASSES": ("person",)}, "state_dict": tensors}, path)
    else:
        from safetensors.torch import save_file

        save_file(tensors, path)
    loaded = load_mmdetection(path, detector_config())
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, out = model(pixel_values=pixels), loaded(pixel_values=pixels)
    assert torch.equal(out.class_queries_logits, expected.class_queries_logits)
    assert torch.equal(out.masks_queries_logits, expected.masks_queries_logits)


def spoiled(tensors, kind):
    if kind == "one is missing":
        del tensors["panoptic_head.query_feat.weight"]
    elif kind == "one too many":
        tensors["panoptic_head.extra.weight"] = torch.zeros(1)
    elif kind == "another shape":
        tensors["panoptic_head.cls_embed.bias"] = torch.zeros(134)
    elif kind == "another network":
        return {"backbone.conv1.weight": torch.zeros(64, 3, 7, 7)}
    elif kind == "no rows for three":
        tensors["backbone.stages.0.blocks.0.attn.w_msa.qkv.bias"] = torch.zeros(25)
    return tensors


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("one is missing", r"missing model\.transformer_module\.queries_features\.weight$"),
        ("one too many", r"unexpected panoptic_head\.extra\.weight$"),
        ("another shape", r"class_predictor.bias \(134,\) instead of \(81,\)"),
        ("another network", r"not the weights of the detector, .*mask2former_swin-s.*: unexpected backbone.conv1"),
        ("no rows for three", r"qkv.bias is torch.float32 \(25,\)"),
    ],
)
def test_another_models_checkpoint_is_refused(tmp_path, kind, message):
    path = tmp_path / "detector.pth"
    torch.save({"state_dict": spoiled(checkpoint(detector()), kind)}, path)
    with pytest.raises(UserError, match=message):
        load_mmdetection(path, detector_config())


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path = tmp_path / "detector.pth"
    torch.save({"state_dict": {}, "meta": Trap()}, path)
    with pytest.raises(UserError, match="cannot be read as a file of tensors"):
        load_mmdetection(path, detector_config())
    assert not (tmp_path / "sprung").exists()
    path.write_bytes(b"<html>not a checkpoint</html>")
    with pytest.raises(UserError, match=r"cannot be read as a file of tensors .*; download it again") as refused:
        load_mmdetection(path, detector_config())
    assert "weights_only" not in str(refused.value)  # torch's advice to run what is in there
    with pytest.raises(UserError, match="there is no such file of weights"):
        load_mmdetection(tmp_path / "none.pth", detector_config())


def test_the_published_shape():
    names = [entry.source for entry in key_table(swin_s_config())]
    assert "backbone.stages.2.blocks.17.attn.w_msa.qkv.weight" in names
    assert "panoptic_head.transformer_decoder.layers.8.norms.2.bias" in names
    assert "panoptic_head.pixel_decoder.encoder.layers.5.norms.1.bias" in names
    assert not any(".layers.9." in name for name in names)
    from transformers import Mask2FormerForUniversalSegmentation

    with torch.device("meta"):
        model = Mask2FormerForUniversalSegmentation(swin_s_config())
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert {name for entry in key_table(model.config) for name in entry.targets} <= shapes.keys()
    assert shapes["class_predictor.weight"] == (81, 256)
    assert shapes["model.transformer_module.queries_features.weight"] == (100, 256)
    assert shapes["model.transformer_module.decoder.layers.0.fc1.weight"] == (2048, 256)
    assert shapes["model.pixel_level_module.decoder.encoder.layers.0.fc1.weight"] == (1024, 256)
    assert 68e6 < sum(p.numel() for p in model.parameters()) < 70e6  # 69 million in its model card
