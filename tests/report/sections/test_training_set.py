"""The training set in numbers."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.emoji.draw import EmojiConfig, draw_emoji
from tessera.files import read_json
from tessera.report.sections.training_set import CLASSES, next_steps, training_set
from tessera.stages import CONFIG
from tiny.commands import call
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
    assert commands[2].startswith("tessera plan --images 37 ")
    named = [command for _, command in next_steps(Path("a folder"), "ta", "a thing", 320, 37)]
    assert named[:2] == ["tessera generate 'a folder/export/ta' 'a thing'", "tessera demo 'a folder/export/ta'"]


def test_emoji_name_their_artists_and_their_own_preset(tmp_path, monkeypatch):
    cache_in(tmp_path / "cache", monkeypatch)
    tiny_emoji(monkeypatch)
    draw_emoji(tmp_path / "emoji", EmojiConfig(styles=("noto",)))
    collect(tmp_path / "images", CollectConfig(source="emoji", size=16), tmp_path / "emoji")
    found = training_set(tmp_path)
    assert found is not None
    assert found.credits[1] == "Noto Emoji by Google (emoji-datasource-google 16.0.0, Apache-2.0)"


@pytest.mark.parametrize(
    "words",
    [
        "my-pictures --images photos --size 64 --network cad --text words:32",
        "my-pictures --images photos --captions told.csv --network dit-xs",
        "my-pictures --images photos/cat --single-class 'a cat' --split all --layout class-folders",
        "my-pictures --images photos --class-names 'the names.txt' --skip-missing",
        "my-pictures.py:small --images photos",
        "emoji --styles noto fluent --num-images 6400",
        "emoji-few --budget 1m",
    ],
)
def test_the_command_that_trains_longer_is_that_of_the_run(words, tmp_path, monkeypatch, capsys):
    (tmp_path / "a folder" / "photos" / "cat").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a folder")
    Path("told.csv").write_text("file_name,text\ncat/1.png,a cat\n")
    Path("my-pictures.py").write_text("from tessera.presets.miniature import my_pictures as small\n")
    monkeypatch.setattr("tessera.run._curate", lambda *_: None)
    monkeypatch.setattr("tessera.run._train_arms", lambda *_: ["ta"])  # the time is over before its first step
    out = tmp_path / "a folder" / "out"
    assert call("run", *shlex.split(words), "--out", out) == 2
    assert "no training has begun within --budget" in capsys.readouterr().err
    for _ in range(2):  # of a run that was resumed too
        command = next_steps(out, "ta", "a cat", 16_000, 5)[2][1]
        assert command.endswith(f" --out '{out}' --num-images 64000")
        images = "photos/cat" if "single" in words else "photos"
        again = shlex.split(command.replace("FOLDER", images).replace("FILE", "told.csv"))
        assert again[0] == "tessera"
        assert call(*again[1:]) == 2
        assert "no training has begun within --budget" in capsys.readouterr().err
    assert all(arm["train"]["num_images"] == 64_000 for arm in read_json(out / CONFIG)["arms"])
