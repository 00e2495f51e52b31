"""The training set in numbers."""

import numpy as np
import pytest
from PIL import Image

from tessera.config import to_dict
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.emoji.draw import EmojiConfig, draw_emoji
from tessera.files import write_json
from tessera.presets.lookup import load_run_preset
from tessera.report.sections.training_set import CLASSES, USUAL, next_steps, training_set
from tessera.stages import CONFIG
from tiny.emoji import cache_in, tiny_emoji


def test_classes_lengths_and_words_of_own_images(tmp_path):
    lines = ["file_name,long,short"]
    for number in range(CLASSES + 5):
        for each in range(3 if number == 7 else 1):
            path = tmp_path / "photos" / f"kind {number}" / f"{each}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = 8 if number == 0 else 20
            Image.fromarray(np.full((size, size, 3), number, np.uint8)).save(path)
            lines.append(f"kind {number}/{each}.png,A thing on an old table.,a thing")
    (tmp_path / "told.csv").write_text("\n".join(lines))
    collect(tmp_path / "images", CollectConfig(source="photos", size=16), tmp_path / "photos")
    config = CaptionConfig(captioner="import")
    caption(tmp_path / "captions" / "plain-import", tmp_path / "images", config, captions_file=tmp_path / "told.csv")
    found = training_set(tmp_path)
    assert found is not None
    assert (
        found.about == "photos: 37 images of 35 classes, cut to 16 px. 1 of them were smaller and have been enlarged."
    )
    assert found.classes[0] == {"name": "kind 7", "count": 3, "share": 100.0}
    assert (len(found.classes), found.classes[1]["share"]) == (CLASSES, 33.3)
    assert found.other_classes == "5 more classes have 5 images."
    assert found.lengths == [
        "Captions: 37, of 6 to 6 words, 6 in the middle.",
        "Captions of the level short: 37, of 2 to 2 words, 2 in the middle.",
    ]
    assert found.words == [("thing", 74), ("old", 37), ("table", 37)]


def test_no_section_without_images_or_for_the_miniature(tmp_path):
    assert training_set(tmp_path) is None
    collect(tmp_path / "images", CollectConfig(size=16))
    assert training_set(tmp_path) is None


def test_what_next_names_this_folder_and_its_captions(tmp_path):
    commands = [command for _, command in next_steps(tmp_path, "ta", 'a "$thing"', 320, 37)]
    assert commands[0] == f"tessera generate {tmp_path}/export/ta 'a \"$thing\"'"
    assert commands[2].endswith(f" --images FOLDER --captions FILE --out {tmp_path} --num-images 1280")
    assert "--captions" not in next_steps(tmp_path, "aio_ia", "a thing", 320, 37)[2][1]
    assert commands[3].startswith("tessera plan --images 37 ")


def test_emoji_name_their_artists_and_their_own_preset(tmp_path, monkeypatch):
    cache_in(tmp_path / "cache", monkeypatch)
    tiny_emoji(monkeypatch)
    draw_emoji(tmp_path / "emoji", EmojiConfig(styles=("noto",)))
    collect(tmp_path / "images", CollectConfig(source="emoji", size=16), tmp_path / "emoji")
    found = training_set(tmp_path)
    assert found is not None
    assert found.credits[1] == "Noto Emoji by Google (emoji-datasource-google 16.0.0, Apache-2.0)"
    command = next_steps(tmp_path, "ta", "a cat", 320, 5)[2][1]
    assert command == f"tessera run emoji --out {tmp_path} --num-images 1280"


@pytest.mark.parametrize("preset", USUAL)
def test_flags_of_the_run_are_repeated(tmp_path, preset):
    """The command trains on what is there: without flags for the preset as it is, with those that changed it."""
    (tmp_path / "photos").mkdir()
    images = {"images": tmp_path / "photos"} if preset == "my-pictures" else {}
    styles = {} if images else {"styles": ("noto", "fluent")}
    for flags, said in (
        ({}, ""),
        ({"size": 64, "network": "cad", "text": "words:32"} | styles, " --size 64 --text words:32 --network cad"),
    ):
        write_json(tmp_path / CONFIG, to_dict(load_run_preset(preset, **images, **flags)))
        said += " --styles noto fluent" if flags and styles else ""
        assert f"{said} --out" in next_steps(tmp_path, "ta", "a cat", 320, 5)[2][1]
        assert ("--size" in next_steps(tmp_path, "ta", "a cat", 320, 5)[2][1]) == bool(flags)
