"""scripts/near_words.py: places by hand, and its lines and sheet of a tiny export and three phrases."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tiny.exports import write_export


@pytest.fixture
def near_words(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "scripts")
    return importlib.import_module("near_words")


def flat(*shades: int) -> np.ndarray:
    return np.stack([np.full((4, 4, 3), shade, np.uint8) for shade in shades])


def test_places_are_counted_image_by_image(near_words):
    known = [flat(0, 0, 200), flat(100, 100, 100), flat(200, 200, 0)]
    assert near_words.places_of(flat(90, 20, 190), known, 0).tolist() == [2, 1, 1]
    assert near_words.places_of(flat(90, 20, 190), known, 2).tolist() == [3, 3, 3]


def test_a_word_of_equal_embedding_lies_nearest(near_words, tmp_path, monkeypatch, capsys):
    """`words` reads a phrase in capitals as the phrase; the place of another one is left open."""
    export = write_export(tmp_path / "export")
    monkeypatch.setattr(near_words, "NEAR", {"A RED APPLE": "a red apple", "a fir": "a tree"})
    monkeypatch.setattr(near_words, "OTHERS", ("a cat",))
    sheet = tmp_path / "sheet.png"
    monkeypatch.setattr(sys, "argv", ["near_words.py", str(export), "--images", "3", "--sheet", str(sheet)])
    near_words.main()
    head, same, other, every = capsys.readouterr().out.splitlines()
    assert head == f"{export}: words:8"
    assert same == "  A RED APPLE      -> a red apple        nearest in 1.00, place  1.0"
    shares = [float(line.split("nearest in ")[1].split()[0].rstrip(",")) for line in (same, other, every)]
    places = [float(line.split()[-1]) for line in (same, other, every)]
    assert "(chance 0.33)" in every
    assert shares[2] == pytest.approx(np.mean(shares[:2]), abs=0.01)
    assert places[2] == pytest.approx(np.mean(places[:2]), abs=0.1)
    with Image.open(sheet) as shown:  # two columns of the new words and below them the phrases, three times as large
        assert shown.size == (2 * 16 * 3, 2 * 16 * 3)
        pixels = np.asarray(shown)
    assert np.array_equal(pixels[:48, :48], pixels[48:, :48])
    assert not np.array_equal(pixels[:48, 48:], pixels[48:, 48:])
