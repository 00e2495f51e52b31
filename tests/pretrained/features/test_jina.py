"""Code of the Hub runs when it is allowed, at the commits that were given, and gets nothing more from the Hub."""

import json
import shutil

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import dynamic_module_utils

from tessera.config import UserError
from tessera.pretrained.features import jina
from tessera.pretrained.features.jina import load_jina
from tiny.jina import save_jina

COMMIT = "0123456789" * 4


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return save_jina(tmp_path / "jina")


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_only_when_allowed_and_pinned(folder):
    with pytest.raises(UserError, match="--allow-remote-code"):
        load_jina("jinaai/jina-clip-v2")
    with pytest.raises(UserError, match="40 hex digits"):
        load_jina("jinaai/jina-clip-v2@main", allow_code=True)
    (folder / "tiny_jina.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(UserError, match="--allow-remote-code"):
        load_jina(str(folder))
    with pytest.raises(SystemExit, match="ran"):
        load_jina(str(folder), allow_code=True)


def test_code_of_another_repository_needs_a_commit_of_its_own(folder, tmp_path, monkeypatch):
    """As jina-clip-v2's config.json, whose own commit does not pin it."""
    change(folder / "config.json", "tiny_jina.Tiny", "owner/code--tiny_jina.Tiny")
    for code in (None, "main", COMMIT[:12]):
        with pytest.raises(UserError, match=r"its code is in owner/code, .*--jina-code"):
            load_jina(str(folder), allow_code=True, code=code)
    snapshot = tmp_path / "hub" / "models--owner--code" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    shutil.move(folder / "tiny_jina.py", snapshot)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    fetched = []
    monkeypatch.setattr(jina, "fetch_repository", lambda name, *rest: fetched.append(name))
    encoder = load_jina(str(folder), allow_code=True, code=COMMIT)
    assert fetched == [f"owner/code@{COMMIT}"]
    assert encoder.id.endswith(f"+{COMMIT[:12]}")
    assert encoder.captions(["a fox"]).features.shape == (1, 8)


def test_the_code_gets_nothing_more_from_the_hub(folder):
    asks = "        from huggingface_hub import hf_hub_download\n        hf_hub_download('owner/more', 'config.json')\n"
    change(folder / "tiny_jina.py", "        self.post_init()\n", asks + "        self.post_init()\n")
    with pytest.raises(UserError, match=r"cannot be loaded.*without the Hub.*hf download"):
        load_jina(str(folder), allow_code=True)
    assert not constants.HF_HUB_OFFLINE


def test_code_runs_with_the_hub_out_of_reach(folder):
    notes = "        import huggingface_hub\n        assert huggingface_hub.is_offline_mode()\n"
    change(folder / "tiny_jina.py", "        self.post_init()\n", notes + "        self.post_init()\n")
    load_jina(str(folder), allow_code=True)
    config = json.loads((folder / "config.json").read_text())
    assert jina._other_repositories(config) == set()


def test_networks_without_all_their_weights_are_refused(folder):
    """What is missing would be filled with random numbers, others in every process."""
    tensors = load_file(folder / "model.safetensors")
    del tensors["words.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"jina: .* is missing weights required by its config\.json: words\.weight"):
        load_jina(str(folder), allow_code=True)
