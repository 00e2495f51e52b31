"""FP8 in large layers, emulated: close to bf16, parameters shared, and refused in one line where it cannot be."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tessera.config import UserError
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.encode import EncodeConfig, encode
from tessera.encoded.store import open_encoded
from tessera.miniature import WorldConfig
from tessera.models import fp8
from tessera.models.dit import DIT_I_L2, DiT
from tessera.models.fp8 import fp8_twin, is_large, use_fp8
from tessera.models.rin import CAD_I_L, RIN
from tessera.presets.lookup import load_train_preset
from tessera.train.config import RuntimeOptions
from tessera.train.loader import passes
from tessera.train.loop import Trainer
from tiny.networks import CONFIGS, make_inputs, make_network

CPU = torch.device("cpu")
needs_torchao = pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed")


@pytest.fixture
def small(monkeypatch):
    """Layers of tiny networks count as large."""
    monkeypatch.setattr(fp8, "SMALLEST", 16)


def test_large_layers_are_most_of_a_networks_products():
    """Of the blocks alone: not where rows are few, as of the noise level, or widths small, as of CAD-I's interface."""
    with torch.device("meta"):
        for network in (DiT(DIT_I_L2), RIN(CAD_I_L)):
            large = {name for name, module in network.named_modules() if is_large(name, module)}
            assert sum(network.get_submodule(name).weight.numel() for name in large) > 0.85 * network.parameter_count
            assert (
                not {"time_modulation", "text.projection", "patch_embedding", "blocks.0.read.attention.query"} & large
            )
            assert "blocks.3.mlp.up" in large or "blocks.3.compute.0.mlp.up" in large


@needs_torchao
def test_a_layers_products_are_near(small):
    """Of 3 bits of mantissa, and 2 of gradients: off by 1/16 and 1/8 at most, by about a third of that as a whole."""
    torch.manual_seed(0)
    layers, x = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(48, 32)])}), torch.randn(5, 7, 48, requires_grad=True)
    found = []
    for change in (lambda: None, lambda: use_fp8(layers, CPU)):
        change()
        layers.zero_grad()
        x.grad = None
        layer = layers["blocks"][0]
        output = layer(x)
        output.backward(torch.linspace(-1, 1, output.numel()).view_as(output).sin())
        found.append((output.detach(), x.grad, layer.weight.grad, layer.bias.grad))
    for limit, expected, ours in zip((0.06, 0.1, 0.1, 1e-6), *found):
        assert 0 <= (ours - expected).norm() < limit * expected.norm()
    assert not torch.equal(found[0][0], found[1][0])


@needs_torchao
@pytest.mark.parametrize("name", ["dit", "rin"])
def test_outputs_of_networks_are_near(name, small):
    """Of random ones, which make much of rounding; a wrong product would be as far off as the output is large."""
    network = make_network(CONFIGS[name])
    names = list(network.state_dict())
    with torch.no_grad():
        expected, _ = network(*make_inputs())
        use_fp8(network, CPU)
        output, _ = network(*make_inputs())
    assert list(network.state_dict()) == names
    assert 0 < (output - expected).norm() < 0.3 * expected.norm()


@needs_torchao
def test_a_twin_has_the_same_parameters_and_leaves_the_network_as_it_is(small):
    network = make_network(CONFIGS["rin"])
    x, alpha_bar, text = make_inputs()
    with torch.no_grad():
        before = network(x, alpha_bar, text)[0]
        twin = fp8_twin(network, CPU)
        assert torch.equal(network(x, alpha_bar, text)[0], before)
        assert {id(p) for p in twin.parameters()} == {id(p) for p in network.parameters()}
        rounded = twin(x, alpha_bar, text)[0]
        assert 0 < (rounded - before).norm() < 0.3 * before.norm()
        network.patch_embedding.weight.zero_()
        assert not torch.equal(twin(x, alpha_bar, text)[0], rounded)


@needs_torchao
def test_a_network_without_large_layers_is_told():
    with pytest.raises(UserError, match=r"^compute: no layer has 1024 features"):
        use_fp8(make_network(CONFIGS["dit"]), CPU)


def test_where_it_cannot_be_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    with pytest.raises(UserError, match=r"^compute: NVIDIA A100 has no FP8, .*; give compute bf16$"):
        fp8.check_fp8(torch.device("cuda"))
    with pytest.raises(UserError, match=r"^compute: FP8 needs an NVIDIA GPU, not mps; give compute bf16$"):
        fp8.check_fp8(torch.device("mps"))
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(UserError, match=r'^compute: FP8 needs more libraries; run: pip install "[^"]+"$'):
        fp8.check_fp8(CPU)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("miniature")
    collect(folder / "images", CollectConfig(size=32, world=WorldConfig(num_images=300)))
    caption(folder / "captions", folder / "images", CaptionConfig(captioner="scene"))
    encode(folder / "encoded", folder / "images", folder / "captions", EncodeConfig())
    return folder / "encoded"


@needs_torchao
@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "compute"), [("miniature:ta", "fp8"), ("miniature-cad:ta", "fp8"), ("miniature-cad:ta", "fp8-first")]
)
def test_two_hundred_steps_of_the_miniature_lose_less_than_a_percent(preset, compute, miniature, monkeypatch):
    """Against bf16; its layers, of 96 features, count as large here."""
    monkeypatch.setattr(fp8, "SMALLEST", 96)
    steps, means = 200, []
    for each in ("bf16", compute):
        config = load_train_preset(preset, num_images=32 * steps, caption_mix="long=1", compute=each)
        trainer = Trainer(Path("unused"), open_encoded(miniature), None, config, CPU, RuntimeOptions())
        numbers = passes(0, config.batch_size, config.num_images, config.batch_size, trainer.reader.lengths)
        losses = [trainer.stepper.step([trainer.reader(next(numbers))])[:-2].mean() for _ in range(steps)]
        means.append(float(torch.stack(losses).mean()))
        print(f"{preset}, {each}: mean loss {means[-1]:.6f}, of the last 50 {torch.stack(losses[-50:]).mean():.6f}")
    assert means[0] != means[1]
    assert means[1] == pytest.approx(means[0], rel=0.01)
