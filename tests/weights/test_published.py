"""Published weights are taken by name, strictly, and every mistake is one line that names it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tessera.config import UserError
from tessera.models.rin import CAD_I_BASE, CAD_I_L, RIN, RINConfig
from tessera.records import TextEncoding
from tessera.weights.published import convert_published, load_published, load_published_state, published_config
from tiny.weights import TINY_RIN, one_line

GOLDEN = Path(__file__).parents[1] / "golden" / "cad_i_tiny.safetensors"


def published_shapes(config: RINConfig) -> dict[str, tuple[int, ...]]:
    """The published class's state dict, from its description: names and shapes."""
    latent, data, text = config.latent_width, config.interface_width, config.text_width
    p, r = config.patch_size, config.text_registers
    shapes = {
        "data_pos_embedding": ((config.latent_size // p) ** 2, data),
        "latents": (config.num_latent_tokens, latent),
        "text_registers": (r, latent),
        "patch_extractor.weight": (data, config.latent_channels, p, p),
        "patch_extractor.bias": (data,),
        "time_embedder.encode_time.freqs": (latent // 8,),
    }

    def linear(name, out, width):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, width), (out,)

    def norm(name, width):
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def feed_forward(name, width):
        linear(f"{name}.0", config.mlp_ratio * width, width)
        linear(f"{name}.3", width, config.mlp_ratio * width)

    def self_attention(name):
        norm(f"{name}.initial_ln", latent)
        norm(f"{name}.middle_ln", latent)
        linear(f"{name}.sa.qkv", 3 * latent, latent)
        linear(f"{name}.sa.out", latent, latent)
        feed_forward(f"{name}.ffn", latent)
        shapes[f"{name}.attention_mask_dummy"] = (1, 1)

    def cross_attention(name, to, source, inner):
        norm(f"{name}.initial_to_ln", to)
        norm(f"{name}.middle_ln", to)
        linear(f"{name}.ca.q", inner, to)
        linear(f"{name}.ca.kv", 2 * inner, source)
        linear(f"{name}.ca.out", to, inner)
        feed_forward(f"{name}.ffn", to)
        shapes[f"{name}.attention_mask_dummy"] = (1, 1)

    norm("data_ln", data)
    linear("time_embedder.map_time.0", latent, latent // 4)
    linear("time_embedder.map_time.2", latent, latent)
    linear("map_text_tokens", latent, text)
    for i in range(config.refiner_depth):
        self_attention(f"transformers_blocks.{i}")
        shapes[f"transformers_blocks.{i}.layer_scale_1"] = (latent,)
        shapes[f"transformers_blocks.{i}.layer_scale_2"] = (latent,)
    norm("linear_previous.0", latent)
    feed_forward("linear_previous.1", latent)
    norm("ln_previous", latent)
    inner = min(latent, data)
    for b in range(config.blocks):
        cross_attention(f"rin_blocks.{b}.retrieve_cond", latent, latent, latent)
        cross_attention(f"rin_blocks.{b}.retriever_ca", latent, data, inner)
        for layer in range(config.layers_per_block):
            self_attention(f"rin_blocks.{b}.processer_sa.{layer}")
        cross_attention(f"rin_blocks.{b}.writer_ca", data, latent, inner)
    norm("map_tokens_to_patches.0", data)
    linear("map_tokens_to_patches.1", p * p * config.latent_channels, data)
    if config.coherence:
        shapes["coherence_embedder.encode_time.freqs"] = (latent // 8,)
        linear("coherence_embedder.map_time.0", latent, latent // 4)
        linear("coherence_embedder.map_time.2", latent, latent)
        shapes["coherence_positional_embedding"] = (latent,)
        shapes["registers_coherence_mask"], shapes["cond_mask"] = (r + 1,), (r + 2,)
    return shapes


def published_state(config: RINConfig) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape) for name, shape in published_shapes(config).items()}


@pytest.mark.parametrize("config", [CAD_I_L, CAD_I_BASE])
@pytest.mark.parametrize("coherence", [False, True])
def test_published_names_map_one_to_one(config, coherence):
    config = replace(config, coherence=coherence)
    with torch.device("meta"):
        tensors = published_state(config)
        converted = convert_published(tensors)
        network = RIN(config)
        load_published_state(network, tensors)
    assert len(tensors) == (452 if coherence else 444)
    expected = {name: parameter.shape for name, parameter in network.named_parameters()}
    assert {name: tensor.shape for name, tensor in converted.items()} == expected


def test_coherence_token_is_left_out_unless_asked_for():
    tensors = published_state(replace(TINY_RIN, coherence=True))
    load_published_state(RIN(TINY_RIN), tensors)
    with pytest.raises(UserError, match="coherence=False"):
        load_published_state(RIN(replace(TINY_RIN, coherence=True)), published_state(TINY_RIN))
    del tensors["coherence_embedder.map_time.0.bias"]
    with pytest.raises(UserError, match="only a part of the coherence token") as error:
        load_published_state(RIN(TINY_RIN), tensors)
    one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("latents"), "missing latent_tokens"),
        (lambda t: t.pop("rin_blocks.0.writer_ca.ca.kv.bias"), "missing blocks.0.write.attention.key_value.bias"),
        (lambda t: t.update({"network.latents": t["latents"]}), "unexpected network.latents"),
        (lambda t: t.update({"rin_blocks.0.writer_ca.ca.kvx.bias": t["latents"]}), "unexpected rin_blocks"),
        (lambda t: t.update({"rin_blocks.1.writer_ca.ca.q.bias": t["latents"]}), "unexpected blocks.1.write"),
        (lambda t: t.update({"latents": t["latents"][:2]}), r"latent_tokens \(2, 16\) instead of \(3, 16\)"),
    ],
)
def test_published_state_is_taken_strictly(change, message):
    tensors = published_state(TINY_RIN)
    change(tensors)
    with pytest.raises(UserError, match=message) as error:
        load_published_state(RIN(TINY_RIN), tensors)
    one_line(error)


@pytest.mark.parametrize(
    "key",
    ["", "latents.weight", "interface_positions", "data_ln", "data_ln.weight2", "rin_blocks.0.writer_ca.ca.q",
     "rin_blocks.0.writer_ca.ca.q.weight.weight", "rin_blocks.x.writer_ca.ca.q.weight",
     "time_embedder.map_time.1.bias",
     "transformers_blocks.0.layer_scale_1.weight", "transformers_blocks.0.sa.qkv"],
)  # fmt: skip
def test_other_names_are_unknown(key):
    with pytest.raises(UserError, match=f"unexpected {re.escape(key)}$"):
        convert_published({key: torch.zeros(2)})


@pytest.fixture
def published_folder(tmp_path):
    with safe_open(GOLDEN, framework="pt") as file:
        prefix = "state_dict/"
        tensors = {k[len(prefix) :]: file.get_tensor(k) for k in file.keys() if k.startswith(prefix)}  # noqa: SIM118
        (tmp_path / "config.json").write_text(file.metadata()["config"])
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_published_folder(published_folder):
    network, metadata = load_published(published_folder)
    assert isinstance(network, RIN)
    assert (network.config.blocks, network.config.text_registers, network.config.coherence) == (2, 3, False)
    assert metadata["tensors"] == len(load_file(published_folder / "model.safetensors"))
    assert metadata["has_coherence"] is False
    assert metadata["config"]["num_latents"] == 12
    golden = load_file(GOLDEN)
    text = TextEncoding(golden["inputs/text_tokens_embeddings"], golden["inputs/text_tokens_mask"])
    eps = network(golden["inputs/y"], golden["inputs/gamma"], text)[0]
    torch.testing.assert_close(eps, golden["outputs/eps_zero_prev"], atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="coherence=False"):
        load_published(published_folder, coherence=True)


def test_published_config_of_the_large_network():
    with safe_open(GOLDEN, framework="pt") as file:
        data = json.loads(file.metadata()["config"])
    large = {"data_size": 32, "data_dim": 256, "num_latents": 256, "latents_dim": 1024, "label_dim": 2048}
    large |= {"num_blocks": 4, "num_processing_layers": 4, "read_write_heads": 16, "compute_heads": 16}
    assert published_config(data | large | {"num_text_registers": 16}) == CAD_I_L
    with pytest.raises(UserError, match="concat_cond_token_to_latents"):
        published_config(data | {"concat_cond_token_to_latents": True})
    with pytest.raises(UserError, match="data_mlp_multiplier"):
        published_config(data | {"data_mlp_multiplier": 2})
    with pytest.raises(UserError, match="num_latents must be an integer"):
        published_config({name: value for name, value in data.items() if name != "num_latents"})


def test_published_folder_without_weights(published_folder):
    (published_folder / "model.safetensors").rename(published_folder / "model.bin")
    with pytest.raises(UserError, match="there is no such file of weights"):
        load_published(published_folder)
    (published_folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="constructor arguments"):
        load_published(published_folder)


def test_neither_folder_nor_repository(tmp_path):
    with pytest.raises(UserError, match="no such folder") as error:
        load_published(tmp_path / "nothing")
    one_line(error)


def test_repository_is_fetched(published_folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def fetch(repo, **options):
        asked.append((repo, options))
        return str(published_folder)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    network, _ = load_published("owner/name")
    assert network.parameter_count > 0
    assert asked == [("owner/name", {"allow_patterns": ["config.json", "model.safetensors"]})]
