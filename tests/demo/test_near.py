"""The training images nearest to drawn ones."""

import numpy as np
import pytest

from tessera.curate.index import read_images
from tessera.demo import near
from tessera.demo.near import NearImages
from tessera.images import read_rgb


@pytest.fixture
def images(workspace):
    return workspace / "images"


def test_an_image_is_nearest_to_itself_mirrored_or_darker(workspace, images):
    rows = list(read_images(images))[:4]
    pixels = [read_rgb(images / row.file) for row in rows]
    views = [pixels[0], pixels[1][:, ::-1], (pixels[2] * 0.7).astype(np.uint8), pixels[3]]
    found = NearImages(workspace)
    assert [row.key for row in found.find(views)] == [row.key for row in rows]
    text = found.markup(views[:2])
    assert text.count("<img ") == 2
    assert rows[1].key in text


def test_large_sets_and_other_folders_are_not_searched(workspace, tmp_path, monkeypatch):
    assert NearImages(tmp_path).rows == []
    monkeypatch.setattr(near, "MOST", 2)
    assert NearImages(workspace).rows == []
