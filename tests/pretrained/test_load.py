"""Networks are loaded whole, frozen and quietly, or refused in one line; files of weights are found and checked."""

import contextlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera.config import UserError
from tessera.files import sha256_file
from tessera.hub import find_model
from tessera.pretrained.detector.mask2former import detector_weights, load_detector
from tessera.pretrained.detector.mmdetection import PUBLISHED
from tessera.pretrained.features.inception import FILE, load_inception
from tessera.pretrained.load import (
    check_float,
    check_state,
    find_weights,
    load_network,
    load_tensors,
    load_tokenizer,
    quiet,
)
from tiny.encoders import inception_state, save_clip
from tiny.judges import save_detector

hub = pytest.importorskip("huggingface_hub")


def hashed(folder: Path, stem: str, content: bytes = b"weights") -> Path:
    """A file that has the start of its SHA-256 in its name, as published ones do."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "new").write_bytes(content)
    return (folder / "new").rename(folder / f"{stem}-{sha256_file(folder / 'new')[:8]}.pth")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of the Hub, owner/name, in place of the network; gives (its folder, the patterns asked for)."""
    folder, asked = tmp_path / "hub", []
    folder.mkdir()

    def download(name, allow_patterns, **options):
        assert name == "owner/name"
        asked.append((allow_patterns, options))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", download)
    return folder, asked


def test_a_file_a_folder_and_a_repository(tmp_path, repository):
    folder, asked = repository
    path = hashed(folder, "published")
    assert find_weights(path, "f", "other.pth") == path
    assert find_weights(folder, "f", path.name) == path
    assert asked == []
    assert find_weights("owner/name@main", "f", path.name) == path
    assert asked == [([path.name], {"revision": "main"})]  # nothing else is fetched
    (folder / "second.pt").write_bytes(b"x")
    assert find_weights("owner/name", "f", path.name) == path
    with pytest.raises(UserError, match=r"^f: owner/name holds 2 files of weights \(published-.*, second\.pt\); give"):
        find_weights("owner/name", "f", "none.pth")
    assert asked[-1][0] == ["config.json", "*.safetensors", "*.pth", "*.pt"]
    path.unlink()
    assert find_weights("owner/name", "f", path.name) == folder / "second.pt"


def test_what_is_not_there(tmp_path, monkeypatch):
    def fail(name, **options):
        raise hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"^f: .*none\.pth: there is no such file of weights \(published as p\.pth\)$"):
        find_weights(tmp_path / "none.pth", "f", "p.pth")
    with pytest.raises(UserError, match=r"^f: owner/name: .* failed: no network$"):
        find_weights("owner/name", "f", "p.pth")
    with pytest.raises(UserError, match=r"^f: .* holds 0 files of weights; give"):
        find_weights(tmp_path, "f", "p.pth")
    with pytest.raises(UserError, match=r"^detector: owner/name: .* failed: no network$"):
        detector_weights("owner/name")


def test_a_name_that_promises_a_hash_keeps_it(tmp_path):
    path = hashed(tmp_path, "weights")
    assert find_weights(path, "f", path.name) == path
    path.write_bytes(b"cut o")
    with pytest.raises(UserError, match=r"f: .*: its SHA-256 begins with [0-9a-f]{8}, not with [0-9a-f]{8} as"):
        find_weights(path, "f", path.name)
    (tmp_path / FILE).write_bytes(b"half a download")
    with pytest.raises(UserError, match="not with 6726825d as its name says"):
        load_inception(tmp_path / FILE)


def test_inception_of_a_repository(repository):
    folder, _ = repository
    save_file(inception_state(), folder / "inception.safetensors")
    encoder = load_inception("owner/name")
    assert encoder.sha256 == sha256_file(folder / "inception.safetensors")
    assert encoder.features(torch.zeros(1, 3, 299, 299)).shape == (1, 2048)


def test_the_detector_of_a_repository_in_either_form(tmp_path, repository):
    folder, asked = repository
    save_detector(folder)
    detector = load_detector("owner/name")
    assert detector.sha256 == sha256_file(folder / "model.safetensors")
    assert [patterns[0] for patterns, _ in asked] == [PUBLISHED, "config.json"]
    for path in folder.iterdir():
        path.unlink()
    torch.save({"state_dict": {"a": torch.zeros(1)}}, folder / "detector.pth")
    assert detector_weights("owner/name") == folder / "detector.pth"
    with pytest.raises(UserError, match="not the weights of the detector"):
        load_detector("owner/name")


def test_a_state_dict_may_lie_under_its_usual_name(tmp_path):
    state = {"a": torch.arange(3.0)}
    torch.save({"state_dict": state, "meta": {"epoch": 1}}, tmp_path / "a.pth")
    torch.save(state, tmp_path / "b.pt")
    save_file(state, tmp_path / "c.safetensors")
    for name in ("a.pth", "b.pt", "c.safetensors"):
        assert torch.equal(load_tensors(tmp_path / name, "f")["a"], state["a"])
    assert load_file(tmp_path / "c.safetensors").keys() == state.keys()


# ---- networks


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


def test_the_faults_of_a_state_are_named():
    shapes = {f"w{i}": (2,) for i in range(6)} | {"any": None}
    check_state({name: torch.zeros(2) for name in shapes}, shapes, "here", "it")
    with pytest.raises(UserError) as error:
        check_state({"w0": torch.zeros(3), "x": torch.zeros(1), "any": torch.zeros(7)}, shapes, "here", "it")
    assert str(error.value) == (
        "here: these are not the weights of it: missing w1, w2, w3, w4 and 1 more; unexpected x;"
        " of another shape w0 (3,) instead of (2,)"
    )
