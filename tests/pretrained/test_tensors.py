"""Files of weights are found by path, in a folder, on the Hub; their names, tensors and shapes are checked."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera.config import UserError
from tessera.files import sha256_file
from tessera.pretrained.detector.mask2former import detector_weights, load_detector
from tessera.pretrained.detector.mmdetection import PUBLISHED
from tessera.pretrained.features.inception import FILE, load_inception
from tessera.pretrained.tensors import check_state, find_weights, load_tensors, renamed
from tiny.encoders import inception_state
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
    fix = "failed: no network; give the folder of a copy in its place"
    with pytest.raises(UserError, match=r"^f: .*none\.pth: there is no such file of weights \(published as p\.pth\)$"):
        find_weights(tmp_path / "none.pth", "f", "p.pth")
    with pytest.raises(UserError, match=rf"^f: owner/name: .* {fix}$"):
        find_weights("owner/name", "f", "p.pth")
    with pytest.raises(UserError, match=r"^f: .* holds 0 files of weights; give"):
        find_weights(tmp_path, "f", "p.pth")
    with pytest.raises(UserError, match=rf"^detector: .* {fix}$"):
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
    assert load_detector("owner/name").model.config.num_labels == 80
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


def test_the_faults_of_a_state_are_named():
    shapes = {f"w{i}": (2,) for i in range(6)} | {"any": None}
    check_state({name: torch.zeros(2) for name in shapes}, shapes, "here", "it")
    with pytest.raises(UserError) as error:
        check_state({"w0": torch.zeros(3), "x": torch.zeros(1), "any": torch.zeros(7)}, shapes, "here", "it")
    assert str(error.value) == (
        "here: these are not the weights of it: missing w1, w2, w3, w4 and 1 more; unexpected x;"
        " of another shape w0 (3,) instead of (2,)"
    )


def test_the_first_rule_that_matches_renames_the_beginning():
    rules = [(r"a\.(\d)\.", r"one.\1."), (r"a\.", "other."), ("end$", "last")]
    assert [renamed(name, rules) for name in ("a.1.w", "a.x.w", "end", "ends", "b.a.1.w")] == [
        "one.1.w", "other.x.w", "last", None, None,
    ]  # fmt: skip
