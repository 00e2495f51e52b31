"""Packages of drawings to a folder of images with captions."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.curate.augment import AugmentConfig, augment
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.table import read_levels
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.emoji.color_words import GROUNDS
from tessera.curate.emoji.draw import CAPTIONS, CREDITS, EmojiConfig, draw_emoji
from tessera.curate.emoji.judged import EmojiCaptions, pairs_in_mixes
from tessera.stages import read_manifest
from tiny.emoji import NAMES, cache_in, tiny_emoji

TINY = EmojiConfig(styles=("noto", "twemoji"))


@pytest.mark.slow
def test_the_real_packages(tmp_path):
    """All of them, fetched where they are not in the user's cache: first, before the tiny ones take their place."""
    try:
        draw_emoji(tmp_path / "emoji", EmojiConfig())
    except UserError as error:
        if "fetch it by hand" in str(error):
            pytest.skip(str(error))
        raise
    counts = read_manifest(tmp_path / "emoji").counts
    assert counts == {"concepts": 1597, "images": 6345}
    rows = [json.loads(line) for line in (tmp_path / "emoji" / CAPTIONS).read_text().splitlines()]
    apples = [row["long"] for row in rows if row["short"] == "a red apple"]
    assert len(apples) == 4
    assert all(" in red" in text and "style of" in text for text in apples)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder made of the tiny packages, which stay in the cache."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("emoji")
        cache_in(folder / "cache", patch)
        tiny_emoji(patch)
        draw_emoji(folder / "emoji", TINY)
        yield folder / "emoji"


def test_captions_say_what_the_pixels_show(drawn):
    rows = [json.loads(line) for line in (drawn / CAPTIONS).read_text().splitlines()]
    assert len(rows) == 10
    first = rows[0]
    assert (first["file_name"], first["short"]) == ("fruit/red apple noto.png", "a red apple")
    ground = first["long"].split(" on a ")[1].removesuffix(" background.")
    assert first["long"] == (
        f"A drawing of a red apple, fruit, ripe, in the shaded style of Noto, in green on a {ground} background."
    )
    for row in rows:
        with Image.open(drawn / row["file_name"]) as image:
            pixels = np.asarray(image)
        ground = row["long"].split(" on a ")[1].removesuffix(" background.")
        assert pixels.shape == (72, 72, 3)
        assert tuple(pixels[0, 0]) == GROUNDS[ground]
    assert len({row["long"] for row in rows}) == 10
    assert len({row["long"].split()[-2] for row in rows}) > 1


def test_chosen_concepts_on_several_grounds(tmp_path, monkeypatch):
    cache_in(tmp_path / "cache", monkeypatch)
    tiny_emoji(monkeypatch)
    draw_emoji(tmp_path / "emoji", replace(TINY, concepts=("ox", "cat"), grounds=3))
    rows = [json.loads(line) for line in (tmp_path / "emoji" / CAPTIONS).read_text().splitlines()]
    assert len(rows) == 2 * 2 * 3
    assert [row["file_name"] for row in rows[:3]] == [f"mammals/cat noto{which}.png" for which in ("", "-2", "-3")]
    for start in range(0, len(rows), 3):
        grounds = {row["long"].split()[-2] for row in rows[start : start + 3]}
        assert len(grounds) == 3
    told = EmojiCaptions(tmp_path / "emoji" / CAPTIONS)
    assert "an ox" in told.tell("ox", None, None, np.random.default_rng(0))
    with pytest.raises(UserError, match=r"no emoji has the name 'oxen'; did you mean 'ox'\?"):
        draw_emoji(tmp_path / "other", replace(TINY, concepts=("oxen",)))


def test_credits_name_the_packages_that_were_used(drawn):
    text = (drawn / CREDITS).read_text()
    assert "Noto Emoji by Google (emoji-datasource-google 16.0.0, Apache-2.0)" in text
    assert "CC-BY-4.0" in text
    assert "OpenMoji" not in text
    assert read_manifest(drawn).facts["credits"] == list(TINY.credits)


def test_the_folder_is_collected_and_captioned_as_anyones_own(drawn, tmp_path):
    collect(tmp_path / "images", CollectConfig(source="emoji", size=16), drawn)
    assert read_manifest(tmp_path / "images").counts["images"] == 10
    augment(tmp_path / "recipe", tmp_path / "images", AugmentConfig(pattern="half"))
    pairs = pairs_in_mixes(tmp_path / "images", tmp_path / "recipe")
    assert pairs <= {frozenset(pair) for pair in itertools.product([name for _, name, *_ in NAMES], repeat=2)}
    assert len(pairs) > 1
    config = CaptionConfig(captioner="import")
    caption(tmp_path / "captions", tmp_path / "images", config, captions_file=drawn / CAPTIONS)
    levels = read_levels(tmp_path / "captions")
    assert levels["short"]["fruit/banana twemoji"] == "a banana"
    assert list(levels) == ["long", "short"]


def test_again_nothing_is_done_and_other_styles_are_another_folder(drawn):
    before = (drawn / CAPTIONS).stat().st_mtime_ns
    draw_emoji(drawn, TINY)
    assert (drawn / CAPTIONS).stat().st_mtime_ns == before
    with pytest.raises(UserError, match="was made otherwise"):
        draw_emoji(drawn, EmojiConfig(styles=("noto",)))


@pytest.mark.parametrize(
    ("styles", "said"),
    [(("nota",), "did you mean 'noto'"), ((), "give at least one of"), (("noto",) * 2, "none twice")],
)
def test_styles_are_checked(styles, said):
    with pytest.raises(UserError, match=said):
        EmojiConfig(styles=styles)
