"""Emoji cut out of their grounds."""

import numpy as np

from tessera.curate.emoji.cut_outs import CUT_OUT_SIZE, HUES, cut_outs
from tiny.emoji import cache_in, tiny_emoji


def test_named_drawings_come_in_all_hues_and_others_in_their_own(tmp_path, monkeypatch):
    cache_in(tmp_path, monkeypatch)
    tiny_emoji(monkeypatch)
    found = cut_outs(["banana", "ox"], ["noto", "twemoji"])
    assert found.pixels.shape == (2 * (2 * HUES + 3), CUT_OUT_SIZE, CUT_OUT_SIZE, 4)
    assert found.pixels.dtype == np.uint8
    assert {name: found.names.count(name) for name in found.names} == {
        **dict.fromkeys(("banana", "ox"), 2 * HUES),
        **dict.fromkeys(("red apple", "cat", "red heart"), 2),
    }
    assert found.styles.count("noto") == found.styles.count("twemoji") == 2 * HUES + 3
    assert all(own for name, own in zip(found.names, found.own_hue) if name not in ("banana", "ox"))
    of_one = [n for n, (name, style) in enumerate(zip(found.names, found.styles)) if (name, style) == ("ox", "noto")]
    first, *others = (found.pixels[n] for n in of_one)
    assert (first[[0, -1], :, 3].max(1) > 0).all()  # no margin above and below
    for other in others:
        assert (other[..., 3] == first[..., 3]).all()
        assert (other[..., :3] != first[..., :3]).any()
    colors = {found.colors[n] for n in of_one}
    assert {"green", "blue"} <= colors  # a green disk, turned
