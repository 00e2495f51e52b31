"""Drawings of the styles."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from tessera.curate.emoji.concepts import Concept, read_concepts
from tessera.curate.emoji.styles import SIDE, STYLES, _of_font, drawings
from tiny.emoji import cache_in, tiny_emoji


def test_images_are_found_by_their_code_points_and_get_a_margin(tmp_path, monkeypatch):
    cache_in(tmp_path, monkeypatch)
    tiny_emoji(monkeypatch)
    found = {concept.name: np.asarray(drawing) for concept, drawing in drawings(STYLES["noto"], read_concepts())}
    assert list(found) == ["red apple", "banana", "cat", "ox", "red heart"]
    banana = found["banana"]
    assert (banana.shape, banana.dtype) == ((SIDE, SIDE, 4), np.uint8)
    assert banana[SIDE // 2, SIDE // 2].tolist() == [30, 200, 30, 255]
    assert not banana[:4, :, 3].any()
    assert not banana[-4:, :, 3].any()


def test_glyphs_that_a_font_does_not_have_are_left_out():
    data = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSansMono.ttf").read_bytes()
    texts = ("A", "AB", "\u2600", "\U0001fae0", " ")  # a sequence of two glyphs, one that is not there, an empty one
    concepts = [Concept(code="0", text=text, name=text, family="f", tags=()) for text in texts]
    found = {concept.text: np.asarray(drawing) for concept, drawing in _of_font(data, concepts)}
    assert list(found) == ["A", "\u2600"]
    alpha = found["A"][..., 3]
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    assert abs(rows[0] - (SIDE - 1 - rows[-1])) <= 1
    assert abs(columns[0] - (SIDE - 1 - columns[-1])) <= 1


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_styles_are_pinned_and_licensed(style):
    assert len(style.package.sha256) == 64
    assert style.package.license
    assert style.package.credit
    assert style.words.split()[0] not in style.package.credit
