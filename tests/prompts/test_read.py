"""The sources of prompts, a file, a shipped set, a list of texts, and what each gives."""

import hashlib
import json
from pathlib import Path

import pytest

from tessera.config import UserError
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


def test_a_directory_of_prompts_stands_for_its_file(tmp_path):
    line = {"prompt": "a red circle", "extended": {"text": "a red circle on snow"}}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(line))
    for extended in (False, True):
        assert load_prompts(tmp_path, extended) == load_prompts(tmp_path / "prompts.jsonl", extended)


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
        ("teasers", False, r"teasers: there is no such file; did you mean 'teaser'\?.*teaser, figure4, geneval"),
        ("teaser", True, "without extended texts"),
        ("teaser.txt", False, r"teaser\.txt: there is no such file"),
        ("somewhere/teaser", False, "somewhere/teaser: there is no such file"),
        ("", False, r"prompts: it is empty; give a file of prompts, or teaser, figure4, geneval"),
        (".", False, r"prompts: \.: is a directory without captions\.parquet or prompts\.jsonl; give a file"),
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


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", '{"prompt": "a"}\n{', "line 2 is not JSON .*: fix or remove it"),
        ("p.jsonl", "\n[]\n", "line 2 is not a JSON object such as"),
        ("p.json", '{"prompt": 1}\n', "entry 1: prompt is not a text"),
        ("p.jsonl", '{"prompt": "smile \\ud83d"}\n', "line 1 has half of a surrogate pair"),
        ("p.txt", " \n\n", "holds no prompts"),
    ],
)
def test_bad_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        load_prompts(tmp_path / name)


def test_lines_end_at_line_feeds_alone(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a\u2028b", "n": 1}\n\n{"prompt": "c"}\n', encoding="utf-8")
    assert [text for _, text in load_prompts(tmp_path / "p.jsonl").rows] == ["a\u2028b", "c"]
    (tmp_path / "bytes.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"is not UTF-8 text .*; save it as UTF-8"):
        load_prompts(tmp_path / "bytes.txt")
