"""The format of scores"""

import json

import pytest

from tessera.config import UserError
from tessera.evaluate.intervals import paired_difference
from tessera.evaluate.scores import (
    FILE,
    Extender,
    Number,
    Scores,
    comparable,
    read_scores,
    require_comparable,
    write_scores,
)
from tiny.quality_number import protocol, scores


def blocks(**changes) -> dict:
    return {"values": [1.0, 2.0], "sizes": [3, 3], "dealt": None, **changes}


def test_scores_come_back_as_they_were_and_equal_scores_are_equal_bytes(tmp_path):
    extender = Extender(model="m", prompt="p", seed=1)
    first = scores(by={"extender": extender})
    write_scores(tmp_path / "a", first)
    write_scores(tmp_path / "b" / "other.json", scores(by={"extender": extender}))
    assert read_scores(tmp_path / "a") == first == read_scores(tmp_path / "a" / FILE)
    assert (tmp_path / "a" / FILE).read_bytes() == (tmp_path / "b" / "other.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("numbers"), "field 'numbers' is missing"),
        (lambda d: d.update(format=1), r"is not a scores\.json of format 2 \(its format: 1\); judge again"),
        (lambda d: d.pop("format"), r"is not a scores\.json of format 2 \(its format: None\)"),
        (lambda d: d.update(kind="qualty"), "field 'kind' must be one of .*did you mean 'quality'"),
        (lambda d: d["numbers"][0].update(vlaue=1), r"unknown field 'numbers\[0\]\.vlaue'; did you mean 'value'"),
        (lambda d: d["numbers"][0].pop("protocol"), r"field 'numbers\[0\]\.protocol' is missing"),
        (lambda d: d["numbers"][0]["protocol"].pop("name"), r"field 'numbers\[0\]\.protocol\.name' is missing"),
        (lambda d: d["numbers"][0].update(value="3"), r"field 'numbers\[0\]\.value' must be"),
        (lambda d: d["numbers"][0].update(low=None), "an interval has two ends"),
        (lambda d: d["numbers"][0].update(n=0), "n is 0"),
        (lambda d: d.update(numbers={}), "field 'numbers' must be a list"),
        (lambda d: d["numbers"][0].update(left_out=[1.0]), r"field 'numbers\[0\]\.left_out' must be"),
        (
            lambda d: d["numbers"][0].update(left_out={"values": [1.0, 2.0], "sizes": [3, 3]}),
            r"left_out\.dealt' is missing",
        ),
        (
            lambda d: d["numbers"][0].update(left_out=blocks(values=[1.0, "2"])),
            r"left_out\.values\[1\]' must be",
        ),
        (lambda d: d["numbers"][0].update(left_out=blocks(sizes=[3, 2.5])), r"left_out\.sizes\[1\]' must be"),
        (lambda d: d["numbers"][0].update(left_out=blocks(sizes=[3, 3, 3])), "2 values of 3 blocks"),
        (lambda d: d["numbers"][0].update(left_out=blocks(sizes=[3, 0])), "sizes is .*give at least 1"),
        (lambda d: d.update(facts=[]), "field 'facts' must be an object"),
        (lambda d: d.update(num_images="x"), "field 'num_images' must be an integer"),
        (lambda d: d["numbers"][0].update(metric=3), "metric' must be a string"),
        (lambda d: d["numbers"][0]["protocol"].update(images="x"), "protocol.images' must be"),
        (lambda d: d["numbers"][0]["protocol"].update(extender=[1]), "protocol.extender"),
        (lambda d: d["numbers"][0]["protocol"].update(settings=None), "protocol.settings' must be an object"),
        (lambda d: d["items"].append(None), r"field 'items\[6\]' must be an object"),
        (lambda d: d["items"][1].pop("values"), r"items\[1\]: must be an object with an object of values"),
        (lambda d: d["items"][1].pop("sample"), r"items\[1\].sample: must be a whole number"),
        (lambda d: d["items"][1]["values"].update(clip_score="x"), r"items\[1\].values.clip_score: must be a number"),
        (lambda d: d["items"][1].update(file=3), r"items\[1\].file: must be a text"),
    ],
)
def test_a_damaged_file_is_refused_with_its_field(tmp_path, change, message):
    write_scores(tmp_path, scores())
    data = json.loads((tmp_path / FILE).read_text())
    change(data)
    (tmp_path / FILE).write_text(json.dumps(data))
    with pytest.raises(UserError, match=message):
        read_scores(tmp_path)


def test_what_cannot_be_is_not_written(tmp_path):
    with pytest.raises(UserError, match="value is nan; give a finite number"):
        Number(metric="fid", value=float("nan"), n=1, protocol=protocol())
    with pytest.raises(UserError, match=r"from 2 to 1 ends below where it begins"):
        Number(metric="fid", value=1, low=2, high=1, n=1, protocol=protocol())
    with pytest.raises(UserError, match="occurs twice"):
        write_scores(tmp_path, Scores(kind="quality", name="a", numbers=scores().numbers * 2))
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "legacy-cut"),
        ("encoder_sha256", "b" * 64),
        ("resize", "bicubic"),
        ("rounding", "truncate"),
        ("images", 7),
        ("reference", "c" * 64),
        ("k", 5),
        ("prompts_sha256", "d" * 64),
        ("extender", Extender(model="m", prompt="p", seed=1)),
        ("settings", {"min_score": 0.9}),
    ],
)
def test_each_field_of_the_protocol_keeps_numbers_apart(field, value):
    (a,), (b,) = scores().numbers, scores(by={field: value}).numbers
    (line,) = comparable(a, b)
    assert line.startswith(field)
    with pytest.raises(UserError, match=f"{field}.*--force"):
        require_comparable(a, b)
    require_comparable(a, b, force=True)
    with pytest.raises(UserError, match="--force"):
        paired_difference(scores(), scores("b", by={field: value}), "clip_score")


def test_another_version_of_a_library_compares():
    assert comparable(scores().numbers[0], scores(by={"versions": {"torch": "3"}}).numbers[0]) == []
