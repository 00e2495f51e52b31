"""Several captions an image, joined from several runs, or shortened by rules."""

import re

import pytest

from tessera.config import UserError
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.levels import drop_clauses, find_runs, shorten
from tessera.curate.caption.table import read_captions, read_levels
from tessera.curate.index import read_images, read_recipe
from tessera.randomness import philox
from tessera.stages import read_manifest
from tiny.captions import write_captions

JOIN, SHORTEN, IMPORT = (CaptionConfig(captioner=name) for name in ("join", "shorten", "import"))
FOX = (
    "The image shows a small, red fox sitting on a mossy log in the forest, looking at the camera, which is near."
    " Its fur glows in the light, while the background is dark. Snow lies on the ground."
)


def test_runs_are_joined_under_the_names_of_levels(images, tmp_path):
    keys = [row.key for row in read_images(images)]
    caption(tmp_path / "aio", images, CaptionConfig())
    caption(tmp_path / "scene", images, CaptionConfig(captioner="scene"))
    path = write_captions(tmp_path / "some.csv", [(key, f"of {key}") for key in keys[2:]])
    caption(tmp_path / "own", images, IMPORT, captions_file=path, skip_missing=True)
    runs = [f"{level}={tmp_path / run}" for level, run in (("tags", "own"), ("short", "scene"), ("long", "aio"))]
    caption(tmp_path / "all", images, JOIN, captions=runs)
    found, scene = read_levels(tmp_path / "all"), read_levels(tmp_path / "scene")
    assert list(found) == ["long", "short", "tags"]
    assert found["long"] == read_captions(tmp_path / "aio")
    assert found["short"] == scene["short"]  # of several levels the one of that name, else the first
    assert found["tags"] == {key: f"of {key}" for key in keys[2:]}
    manifest = read_manifest(tmp_path / "all")
    assert set(manifest.inputs) == {"images", "captions long", "captions short", "captions tags"}
    assert manifest.counts["records"] == 24
    caption(tmp_path / "all", images, JOIN, captions=runs)  # is complete
    with pytest.raises(UserError, match="was made otherwise: input captions"):
        caption(tmp_path / "all", images, JOIN, captions=runs[:2])
    only = [f"{level}={tmp_path / 'own'}" for level in ("long", "short")]
    with pytest.raises(UserError, match=f"own and .*own: has no caption for 2 of 24 images: '{keys[0]}'"):
        caption(tmp_path / "less", images, JOIN, captions=only)


def test_captions_of_other_images_are_not_joined(images, recipe, tmp_path):
    other = tmp_path / "other"
    with pytest.raises(UserError, match="shorten needs --captions with one directory"):
        caption(other, images, SHORTEN)
    with pytest.raises(UserError, match=r"join needs --captions with a level, none twice, .*: long=captions/a"):
        caption(other, images, JOIN, captions=["long=a", "long=b"])
    for wrong in (["long=a"], ["a", "b"], ["long=", "short=b"]):
        with pytest.raises(UserError, match="join needs --captions with a level"):
            find_runs("join", wrong)
    with pytest.raises(UserError, match="names no level of captions"):
        find_runs("join", ["a b=x", "c=y"])
    with pytest.raises(UserError, match="captions x are given, but the captioner is aio: one of join, shorten"):
        caption(other, images, CaptionConfig(), captions=["x"])
    with pytest.raises(UserError, match="there is no such directory"):
        caption(other, images, SHORTEN, captions=[tmp_path / "gone"])
    caption(tmp_path / "plain", images, CaptionConfig())
    with pytest.raises(UserError, match="was made without --recipe"):
        caption(other, images, SHORTEN, recipe=recipe, captions=[tmp_path / "plain"])
    caption(tmp_path / "mixed", images, CaptionConfig(), recipe=recipe)
    with pytest.raises(UserError, match="mixed: holds captions of augmented images; give the --recipe"):
        caption(other, images, SHORTEN, captions=[tmp_path / "mixed"])
    with pytest.raises(UserError, match="was made by `tessera augment`"):
        caption(other, images, SHORTEN, captions=[recipe])
    assert not other.exists()


def test_shorter_captions_by_rules_keep_the_long_ones(images, tmp_path):
    caption(tmp_path / "long", images, CaptionConfig(captioner="scene"))
    path = write_captions(tmp_path / "own.csv", [(row.key, f"{FOX} {row.key}.") for row in read_images(images)])
    caption(tmp_path / "own", images, IMPORT, captions_file=path)
    caption(tmp_path / "out", images, SHORTEN, captions=[tmp_path / "own"])
    found = read_levels(tmp_path / "out")
    assert list(found) == ["long", "medium", "short"]
    assert found["long"] == read_captions(tmp_path / "own")
    assert set(found["short"].values()) == {"a small, red fox sitting on a mossy log in the forest"}
    assert len(set(found["medium"].values())) > 5
    caption(tmp_path / "again", images, SHORTEN, captions=[tmp_path / "own"])
    assert read_levels(tmp_path / "again") == found
    caption(tmp_path / "seed", images, CaptionConfig(captioner="shorten", seed=1), captions=[tmp_path / "own"])
    assert read_levels(tmp_path / "seed")["medium"] != found["medium"]
    # Levels that are there are kept.
    caption(tmp_path / "kept", images, SHORTEN, captions=[tmp_path / "long"])
    assert read_levels(tmp_path / "kept") == read_levels(tmp_path / "long")


def test_short_captions_of_mixes_name_both_classes(images, recipe, tmp_path):
    caption(tmp_path / "own", images, CaptionConfig(), recipe=recipe)
    caption(tmp_path / "out", images, SHORTEN, recipe=recipe, captions=[tmp_path / "own"])
    found = read_levels(tmp_path / "out")
    assert list(found) == ["long", "short"]
    forms = set()
    for row in read_recipe(recipe).rows:
        base, partner = (key.split("/")[0] for key in (row.base, row.partner))
        short, halves = found["short"][row.key], row.placement.spans_frame
        assert {base, partner} <= set(short.split())
        read = f"{base} {'and' if row.placement.box[0] > 0 else 'above'} {partner}"
        assert found["long"][row.key] == f"An image of {short}" or (halves and short == read)
        forms.add((halves, short == read))
    assert forms == {(True, True), (True, False), (False, False)}


@pytest.mark.parametrize(
    ("text", "short"),
    [
        (FOX, "a small, red fox sitting on a mossy log in the forest"),
        ("In this image, there is a cat.", "a cat"),
        ("There are two dogs on a beach, while the sun sets.", "two dogs on a beach"),
        ("A dog. It barks.", "a dog"),
        ("A St. Bernard dog on a U.S. Army truck. It barks.", "a St. Bernard dog on a U.S. Army truck"),
        ("Dog, cat, bird", "Dog, cat, bird"),
        ("A photo of a man who holds a fish", "a man who holds a fish"),
        ("The image", "the image"),
        (" ... ", "..."),
        ("  Eule im Wald.  ", "Eule im Wald"),
        ("一只红狐狸。它看着镜头。", "一只红狐狸"),
    ],
)
def test_the_short_form_of_a_text(text, short):
    assert shorten(text) == short


def test_clauses_and_sentences_are_dropped_and_nothing_is_added():
    made = [drop_clauses(FOX, philox(0, "test", number)) for number in range(400)]
    start = "The image shows a small, red fox sitting on a mossy log in the forest"
    assert {
        FOX,
        f"{start}.",
        f"{start}. Snow lies on the ground.",
        f"{start}, looking at the camera. Its fur glows in the light.",
    } <= set(made)
    for text in made:
        assert text.startswith(start)
        assert text.endswith(".")
        assert set(re.findall(r"\w+", text)) <= set(re.findall(r"\w+", FOX))
    for part, share in (("looking", 0.5), ("Its fur", 0.5), ("Snow", 0.5), ("while", 0.25)):
        assert abs(sum(part in text for text in made) / 400 - share) < 4 * (share * (1 - share) / 400) ** 0.5
