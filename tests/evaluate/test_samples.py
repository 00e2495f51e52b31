"""Directories of `generate` as the judges read them."""

import json

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.evaluate.samples import read_samples, read_square
from tessera.evaluate.scores import Extender
from tiny.samples import write_samples

LINES = [
    {"prompt": f"p{i}", "extended": {"text": f"long {i}", "extender": "rules", "template": "t", "seed": 3}}
    for i in range(3)
]


def test_samples_are_read_in_the_order_of_their_prompts(tmp_path):
    samples = read_samples(write_samples(tmp_path / "s", LINES, extended=True))
    assert (samples.per_prompt, samples.extended) == (2, True)
    assert [line["text"] for line in samples.lines] == ["long 0", "long 1", "long 2"]
    assert samples.image(2, 1) == tmp_path / "s" / "00002" / "samples" / "0001.png"
    assert samples.extender == Extender(model="rules", prompt="t", seed=3)
    assert read_samples(write_samples(tmp_path / "short", LINES)).extender is None


def test_missing_images_and_texts_of_two_extenders_are_named(tmp_path):
    directory = write_samples(tmp_path / "s", LINES, extended=True)
    path = directory / "00001" / "metadata.jsonl"
    path.write_text(path.read_text().replace('"rules"', '"llm"'))
    with pytest.raises(UserError, match="its texts come from 2 extenders"):
        read_samples(directory)
    path.write_text(json.dumps({"text": "no prompt"}))
    with pytest.raises(UserError, match=r'00001/metadata\.jsonl: must hold an object with a text "prompt"'):
        read_samples(directory)
    (directory / "00002" / "samples" / "0000.png").unlink()
    with pytest.raises(UserError, match=r"1 of 9 files are missing, the first is 00002/samples/0000\.png"):
        read_samples(directory)


@pytest.mark.parametrize("name", ["00001/samples/0002.png", "00001/samples/0000.jpg", "00003/samples/0000.png"])
def test_images_that_generate_did_not_draw_are_refused(tmp_path, name):
    """They would be left out of every number."""
    directory = write_samples(tmp_path / "s", LINES)
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"did not draw 1 of the files in it, the first is {name}; move them away"):
        read_samples(directory)


def test_squares_are_checked(tmp_path):
    Image.fromarray(np.zeros((8, 6, 3), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "b.png")
    assert read_square(tmp_path / "b.png", 8).shape == (8, 8, 3)
    with pytest.raises(UserError, match="is 6 x 8 px; all samples must be squares of one size"):
        read_square(tmp_path / "a.png")
    with pytest.raises(UserError, match="is 8 x 8 px; all samples must be squares of 16 px"):
        read_square(tmp_path / "b.png", 16)
