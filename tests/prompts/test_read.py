"""Where prompts come from: a file, a shipped set, a list of texts."""

import hashlib
import json
from pathlib import Path

import pytest

from tessera.config import UserError
from tessera.files import write_table
from tessera.prompts.read import SHIPPED, load_prompts


def test_teaser_prompts_are_the_papers_fifteen():
    prompts = load_prompts("teaser")
    assert len(prompts.rows) == 15
    assert prompts.name == "teaser"
    texts = [text for _, text in prompts.rows]
    assert len(set(texts)) == 15
    assert [metadata["prompt"] for metadata, _ in prompts.rows] == texts
    starts = [
        "This is a captivating image of a hummingbird",
        "The image features a turtle",
        "This is a whimsical image",
    ]
    assert all(text.startswith(start) for text, start in zip(texts, starts))
    assert texts[5].count("variety of colors that contrast nicely") == 1  # a page ends inside this one
    assert texts[-1].endswith("the appetizing and authentic nature of Mexican street food.")
    assert all(text.endswith(".") and "  " not in text for text in texts)


def test_figure_4_has_short_and_extended_prompts():
    short, extended = load_prompts("figure4"), load_prompts(Path("figure4"), extended=True)
    assert [text for _, text in short.rows][1:] == ["A hedgehog and an hourglass", "A crab sculpted from yellow cheese"]
    for (metadata, text), (_, longer) in zip(short.rows, extended.rows):
        assert metadata == {"prompt": text, "extended": {"text": longer}}
        assert 100 < len(longer.split()) < 200
    assert "cultural richness to the surreal composition" in extended.rows[0][1]  # a page ends inside this one
    assert short.sha256 == extended.sha256


def test_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("teaser").write_text("a red circle\n")
    assert [text for _, text in load_prompts("teaser").rows] == ["a red circle"]


def test_texts_are_prompts_as_they_are():
    prompts = load_prompts(["A red circle, on Snow!", ""])
    assert prompts.rows == (({"prompt": "A red circle, on Snow!"}, "A red circle, on Snow!"), ({"prompt": ""}, ""))
    assert prompts.name == "a-red-circle-on-snow"
    assert prompts.sha256 == hashlib.sha256(b"A red circle, on Snow!\n\n").hexdigest()
    assert load_prompts(["../../.. \n"]).name == "empty"
    assert load_prompts(["\u96ea\u306e\u4e2d " * 40]).name.startswith("\u96ea\u306e\u4e2d-")
    assert len(load_prompts(["word " * 600]).name) <= 40


@pytest.mark.parametrize(
    ("source", "extended", "message"),
    [
        ("teasers", False, r"teasers: no such prompts file; did you mean 'teaser'\?.*teaser, figure4, geneval"),
        ("teaser", True, "without extended texts"),
        ("teaser.txt", False, r"teaser\.txt: no such prompts file"),
        ("somewhere/teaser", False, "somewhere/teaser: no such prompts file"),
        ([], False, r"prompt: \[\] is not a text"),
        ([3], False, r"prompt: \[3\] is not a text"),
        (["a\udcff"], False, "not valid Unicode"),
        (["a"], True, "extended"),
    ],
)
def test_refused(source, extended, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_prompts(source, extended)
    assert "\n" not in str(caught.value)


def test_every_shipped_set_is_there():
    for name in SHIPPED:
        assert load_prompts(name).rows


def coco(path, images=3):
    """Captions of images 10, 11, ...; three each, not in order."""
    entries = [
        {"image_id": 10 + i, "id": 100 * i + k, "caption": f" picture {i},\nwording {k} "}
        for k in (2, 0, 1)
        for i in reversed(range(images))
    ]
    path.write_text(json.dumps({"annotations": entries}))
    return path


def test_coco_gives_the_first_caption_of_every_image(tmp_path):
    path = coco(tmp_path / "captions_val.json")
    prompts = load_prompts(f"coco:{path}")
    assert [text for _, text in prompts.rows] == [f"picture {i}, wording 0" for i in range(3)]
    assert [metadata["image_id"] for metadata, _ in prompts.rows] == [10, 11, 12]
    assert (prompts.name, prompts.sha256) == ("captions_val", hashlib.sha256(path.read_bytes()).hexdigest())


def test_coco_30k_draws_the_same_30000_images_always(tmp_path):
    path = coco(tmp_path / "captions_val.json", 30_500)
    rows = [load_prompts(f"coco-30k:{path}").rows for _ in range(2)]
    images = [metadata["image_id"] for metadata, _ in rows[0]]
    assert rows[0] == rows[1]
    assert len(set(images)) == 30_000
    assert images == sorted(images)
    assert images[-1] > 30_400  # from all over the file


def test_a_caption_directory_is_a_prompt_set(tmp_path):
    columns = {
        "key": ["n01/0", "n01/1"],
        "text": ["a tench", "A tench, by the sea."],
        "captioner": ["", ""],
    }
    write_table(tmp_path / "val" / "captions.parquet", columns)
    prompts = load_prompts(tmp_path / "val")
    assert prompts.rows[1] == ({"prompt": columns["text"][1], "key": "n01/1"}, columns["text"][1])
    assert prompts.name == "val"
    assert load_prompts(tmp_path / "val" / "captions.parquet") == prompts


@pytest.mark.parametrize(
    ("content", "scheme", "message"),
    [
        ({"annotations": []}, "coco", "has no annotations"),
        ([], "coco", "has no annotations"),
        ({"annotations": [{"image_id": 1, "id": 1}]}, "coco", r"annotations\[0\] needs image_id, id"),
        ({"annotations": [{"image_id": 1, "id": 1, "caption": "x"}]}, "coco-30k", "captions of 1 images, 30000"),
    ],
)
def test_bad_annotations(tmp_path, content, scheme, message):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_prompts(f"{scheme}:{path}")


def test_captions_have_no_extended_texts(tmp_path):
    with pytest.raises(UserError, match="turn extended off"):
        load_prompts(f"coco:{coco(tmp_path / 'captions.json')}", extended=True)
