"""Parts of users' own files: found by path or by id, checked, blamed for what they raise, and never run unasked."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tessera.config import UserError
from tessera.encoded.store import open_encoded
from tessera.pretrained.text_encoders import load_text_encoder
from tessera.pretrained.vae import PixelUnshuffle, load_codec

PARTS = """
import numpy as np

class Letters:
    width = 26

    def encode(self, texts):
        rows = np.eye(26, dtype="float32")
        return [rows[[ord(c) - 97 for c in text.lower() if "a" <= c <= "z"] + [25]] for text in texts]

class Halves:
    def latent_shape(self, size):
        return 3, size // 2, size // 2

    def encode(self, images):
        mean = images[:, ::2, ::2].transpose(0, 3, 1, 2) / 255
        return mean, np.zeros_like(mean)

    def decode(self, latents):
        return np.uint8(np.asarray(latents).transpose(0, 2, 3, 1).repeat(2, 1).repeat(2, 2).clip(0, 1) * 255)

class Flat(Letters):
    def encode(self, texts):
        return [np.zeros(26) for text in texts]

class Few(Letters):
    def encode(self, texts):
        return []

class Raises(Letters):
    def encode(self, texts):
        return 1 / 0

class NoWidth:
    def encode(self, texts):
        return [np.zeros((1, 4)) for text in texts]

class Narrow(Halves):
    def decode(self, latents):
        return np.zeros((1, 2, 2))

class Nothing:
    pass
"""


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """The path of a user's file; nothing of other tests is remembered."""
    monkeypatch.setenv("TESSERA_MODELS", "")
    path = tmp_path / "own" / "my_parts.py"
    path.parent.mkdir()
    path.write_text(PARTS)
    return path


def test_an_encoder_of_a_file(parts):
    encoder = load_text_encoder(f"{parts}:Letters", run_files=True)
    assert encoder.id.startswith("my_parts.py:Letters@")
    assert (encoder.width, encoder.sha256, encoder.count_tokens(["a cat", ""])) == (26, None, [5, 1])
    encoded = encoder.encode(["ab"])[0]
    assert encoded.dtype == np.float32
    assert encoded.argmax(1).tolist() == [0, 1, 25]
    assert encoder.null_condition.shape == (1, 26)
    encoder.to("cpu")  # there is nothing to move


def test_a_codec_of_a_file(parts):
    codec = load_codec(f"{parts}:Halves", run_files=True)
    images = np.full((2, 4, 4, 3), 51, np.uint8)
    mean, std = codec.encode(images)
    assert mean.shape == std.shape == (2, *codec.latent_shape(4)) == (2, 3, 2, 2)
    assert np.array_equal(codec.decode(mean), images)
    with pytest.raises(UserError, match=r"image codec .*my_parts.py:Narrow: decode\(\) must return uint8"):
        load_codec(f"{parts}:Narrow", run_files=True).decode(mean)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Flat", r"Flat: encode\(\) must return finite arrays of shape \(L, 26\) with L at least 1, not \(26,\)"),
        ("Few", r"Few: encode\(\) must return an array for each text, 1, not 0"),
        ("Raises", r"text encoder .*my_parts.py:Raises: line 32: ZeroDivisionError"),
        ("NoWidth", r"NoWidth: AttributeError: .*'width'"),
        ("Nothing", r"Nothing: has no method encode\(\)"),
        ("Letter", r"has no function 'Letter'; did you mean 'Letters'"),
    ],
)
def test_what_is_wrong_with_a_part_is_said_in_one_line(parts, name, message):
    with pytest.raises(UserError, match=message) as error:
        load_text_encoder(f"{parts}:{name}", run_files=True).encode(["a"])
    assert "\n" not in str(error.value)


def test_an_id_asks_for_its_file(parts, monkeypatch):
    identity = load_text_encoder(f"{parts}:Letters", run_files=True).id
    assert load_text_encoder(identity).id == identity  # named before by this process
    monkeypatch.delenv("TESSERA_MODELS")
    monkeypatch.chdir(parts.parent)  # a folder of exports may hold files of strangers
    with pytest.raises(UserError, match=r"^text: Letters of a user's own file my_parts.py .* set TESSERA_MODELS"):
        load_text_encoder(identity)
    monkeypatch.setenv("TESSERA_MODELS", str(parts.parent))
    assert load_text_encoder(identity).encode(["ab"])[0].shape == (3, 26)
    parts.write_text(PARTS + "# changed\n")
    with pytest.raises(UserError, match=r"not here; .*my_parts.py has other contents; set TESSERA_MODELS"):
        load_text_encoder(identity)


def test_a_stored_path_is_never_run(parts):
    parts.write_text("raise SystemExit('ran')")
    for load in (load_text_encoder, load_codec):
        with pytest.raises(UserError, match="is not run"):
            load(f"{parts}:Letters")


def test_a_family_s_argument_and_unknown_names(parts):
    assert load_codec("pixel-unshuffle:2") == PixelUnshuffle(2)
    with pytest.raises(UserError, match=r"unknown image codec 'pixel-shuffle:2'; there are: .*, and FILE.py:CLASS"):
        load_codec("pixel-shuffle:2")
    with pytest.raises(UserError, match="there is no file"):
        load_codec(f"{parts.parent / 'none.py'}:Halves", run_files=True)


def call(*arguments, folder):
    """Run the command line in `folder`."""
    command = [sys.executable, "-c", "from tessera.cli import main; main()", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(command, cwd=folder, text=True, capture_output=True, env=environment)


@pytest.mark.slow
def test_encode_by_a_users_encoder_and_codec_in_worker_processes(parts, images, tmp_path):
    """The whole way, through the command line: what is stored is the id, and another user's file is named."""
    folder = parts.parent
    shutil.copytree(images, folder / "images")
    done = call("caption", "images", "--out", "captions", "--captioner", "scene", folder=folder)
    assert done.returncode == 0, done.stderr
    arguments = ("encode", "images", "captions", "--out", "encoded", "--engine", "processes", "--workers", 2)
    done = call(*arguments, "--text", "my_parts.py:Letters", "--latents", "my_parts.py:Halves", folder=folder)
    assert done.returncode == 0, done.stderr
    store = open_encoded(folder / "encoded")
    assert store.facts["text_encoder"].startswith("my_parts.py:Letters@")
    assert store.facts["latent_codec"].startswith("my_parts.py:Halves@")
    assert (store.text_width, tuple(store.latent_shape)) == (26, (3, 8, 8))
    assert json.loads((folder / "encoded" / "manifest.json").read_text())["config"]["text"].startswith("my_parts.py:L")
    done = call(*arguments, "--text", "my_parts.py:Raises", "--out", "other", folder=folder)
    assert done.returncode == 2
    assert "text encoder my_parts.py:Raises: line 32: ZeroDivisionError" in done.stderr
