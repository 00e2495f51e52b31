"""The network in diffusers' terms: the export itself, and nothing copied."""

import pytest
import torch

from tessera.config import UserError
from tessera.files import read_json
from tessera.generate.diffusers.model import TesseraTransformer, fetch
from tessera.generate.pipeline import Pipeline
from tessera.weights.export import load_export


def test_networks_weights_are_shared_with_the_export(export):
    network, info = load_export(export)
    wrapper = TesseraTransformer.wrap(network, info)
    assert wrapper.denoiser is network
    assert {name for name, _ in wrapper.named_parameters()} == {f"denoiser.{n}" for n, _ in network.named_parameters()}
    x, alpha_bar = torch.randn(2, 48, 4, 4), torch.tensor([0.3, 0.6])
    text = Pipeline(network, info).encode(["a fox", "a red hen"])
    assert torch.equal(wrapper(x, alpha_bar, text)[0], network(x, alpha_bar, text)[0])


def test_saving_and_loading_is_an_export(export, tmp_path):
    wrapper = TesseraTransformer.wrap(*load_export(export))
    wrapper.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (export / "model.safetensors").read_bytes()
    assert read_json(tmp_path / "manifest.json")["stage"] == "export"
    again = TesseraTransformer.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert again.info.settings == wrapper.info.settings
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}


def test_mistakes_are_named(export, tmp_path):
    wrapper = TesseraTransformer.wrap(*load_export(export))
    with pytest.raises(UserError, match="safe_serialization"):
        wrapper.save_pretrained(tmp_path / "a", safe_serialization=False)
    with pytest.raises(UserError, match="variant: 'fp16'"):
        TesseraTransformer.from_pretrained(export, variant="fp16")
    with pytest.raises(UserError, match="not quantized"):
        TesseraTransformer.from_pretrained(export, quantization_config={})
    with pytest.raises(UserError, match="no such folder"):
        fetch("nothing")
