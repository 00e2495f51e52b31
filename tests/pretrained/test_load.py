"""Networks are loaded whole, frozen and quietly, or refused in one line."""

import contextlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera.config import UserError
from tessera.hub import find_model
from tessera.pretrained.load import (
    check_float,
    load_network,
    load_tokenizer,
    quiet,
)
from tessera.pretrained.text_encoders import TEXT_FILES
from tiny.encoders import save_clip


@pytest.fixture
def clip(tmp_path):
    return save_clip(tmp_path / "clip")


def model_of(folder):
    return find_model(str(folder), ["*.safetensors", "*.json", "merges.txt"], "f")


def changed(folder, **changes):
    """The folder with other tensors; None takes one out."""
    tensors = {**load_file(folder / "model.safetensors"), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_network_is_loaded_frozen_and_says_nothing(clip, capfd):
    network = load_network("transformers.CLIPModel", model_of(changed(clip, extra=torch.zeros(1))), "f")
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.logit_scale.dtype == torch.float32
    assert load_tokenizer(model_of(clip), "f")("a fox")["input_ids"]
    assert capfd.readouterr() == ("", "")
    low = load_network("transformers.CLIPModel", model_of(clip), "f", dtype=torch.bfloat16)
    assert low.logit_scale.dtype == torch.bfloat16


def test_a_network_without_all_its_weights_is_refused_unless_that_is_known(clip):
    def load(**options):
        return load_network("transformers.CLIPModel", model_of(clip), "f", **options)

    changed(clip, logit_scale=None, extra=torch.zeros(1))
    with pytest.raises(UserError, match=r"^f: clip@.* is missing weights required by its config\.json: logit_scale, "):
        load()
    load(may_be_missing="logit_.*")
    with pytest.raises(UserError, match=r"^f: clip@.* has weights that a CLIPModel does not have: extra, "):
        load(may_be_missing="logit_.*", may_be_unused="other")
    changed(clip, logit_scale=torch.zeros(2, 2))
    with pytest.raises(UserError, match=r"is missing weights .*logit_scale"):
        load()


def test_faulty_files_are_one_line(clip, monkeypatch):
    (clip / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"^f: clip@.* cannot be loaded: .*; advice$") as error:
        load_network("transformers.CLIPModel", model_of(clip), "f", advice="; advice")
    assert "\n" not in str(error.value)
    for path in clip.glob("*tokenizer*"):
        path.write_text("{}")
    with pytest.raises(UserError, match=r"^f: clip@.* cannot be loaded: .*; copy its tokenizer there$"):
        load_tokenizer(model_of(clip), "f")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    for load in (lambda: load_network("transformers.CLIPModel", model_of(clip), "f"),
                 lambda: load_tokenizer(model_of(clip), "f")):  # fmt: skip
        with pytest.raises(UserError, match=r"^f: clip@.* needs more libraries; run: pip install"):
            load()


def test_quiet_is_over_when_it_is_left():
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with contextlib.suppress(KeyError), quiet("transformers"):
        assert not logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == logging.ERROR
        raise KeyError
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_floats_of_pretrained_networks():
    assert check_float(None, "f", "it") == torch.float32
    assert check_float(torch.bfloat16, "f", "it") == torch.bfloat16
    with pytest.raises(UserError, match=r"^f: it computes in float32 or bfloat16, not float16$"):
        check_float(torch.float16, "f", "it")


def test_on_cuda_weights_go_straight_to_the_device(t5_folder, monkeypatch):
    """Not through the host's memory, of which eight workers at once would need eight times as much."""
    import transformers

    asked = []

    class Loaded(transformers.T5EncoderModel):
        @classmethod
        def from_pretrained(cls, *arguments, device_map=None, **options):
            asked.append(device_map)
            return transformers.T5EncoderModel.from_pretrained(*arguments, **options)

    monkeypatch.setattr(transformers, "Loaded", Loaded, raising=False)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: self)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    folder = find_model(str(t5_folder), TEXT_FILES, "text")
    for device in ("cpu", "cuda", torch.device("cuda:1")):
        load_network("transformers.Loaded", folder, "text", device=device)
    assert asked == [None, {"": 3}, {"": 1}]
