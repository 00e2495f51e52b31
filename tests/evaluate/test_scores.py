"""The format of results: round trips, damage, unlike protocols, paired differences, intervals that cover."""

import dataclasses
import json

import numpy as np
import pytest

from tessera.config import UserError
from tessera.evaluate.intervals import mean_interval, paired_difference
from tessera.evaluate.scores import (
    FILE,
    Extender,
    Number,
    Protocol,
    Scores,
    comparable,
    read_scores,
    require_comparable,
    write_scores,
)


def protocol(**changes) -> Protocol:
    given = {"metric": "clip_score", "name": "full", "encoder": "net", "encoder_sha256": "a" * 64, "images": 6}
    return Protocol(**{**given, "settings": {"min_score": 0.3}, "versions": {"torch": "2.9"}, **changes})


def scores(name="ta", values=(1.0, 2, 3, 4, 5, 6), over="items", tags=("x",) * 6, by=None) -> Scores:
    items = tuple(
        {"prompt": i // 2, "sample": i % 2, "tag": tag, "values": {"clip_score": v}}
        for i, (v, tag) in enumerate(zip(values, tags))
    )
    about = {"n": 6, "clusters": 3, "over": over, "interval": "bootstrap over prompts, 9 resamples"}
    number = Number(metric="clip_score", value=3.5, low=2, high=5, **about, protocol=protocol(**(by or {})))
    return Scores(kind="quality", name=name, numbers=(number,), items=items, num_images=1000)


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
        (lambda d: d.pop("numbers"), "numbers and items must be lists"),
        (lambda d: d.update(format=1), r"is not a scores\.json of format 2 \(its format: 1\); judge again"),
        (lambda d: d.pop("format"), r"is not a scores\.json of format 2 \(its format: None\)"),
        (lambda d: d.update(kind="qualty"), "kind is 'qualty'"),
        (lambda d: d["numbers"][0].update(vlaue=1), "unknown field 'vlaue'; did you mean 'value'"),
        (lambda d: d["numbers"][0].pop("protocol"), r"numbers\[0\]: must be an object with a protocol"),
        (lambda d: d["numbers"][0]["protocol"].pop("name"), "field 'protocol.name' is missing"),
        (lambda d: d["numbers"][0].update(value="3"), "field 'value' must be"),
        (lambda d: d["numbers"][0].update(low=None), "an interval has two ends"),
        (lambda d: d["numbers"][0].update(n=0), "n is 0"),
        (lambda d: d.update(numbers={}), "must be lists"),
        (lambda d: d["numbers"][0].update(left_out=[1.0]), r"numbers\[0\]: field 'left_out' must be"),
        (
            lambda d: d["numbers"][0].update(left_out={"values": [1.0, 2.0], "sizes": [3, 3]}),
            "'left_out.dealt' is missing",
        ),
        (
            lambda d: d["numbers"][0].update(left_out=blocks(values=[1.0, "2"])),
            r"field 'left_out\.values\[1\]' must be",
        ),
        (lambda d: d["numbers"][0].update(left_out=blocks(sizes=[3, 2.5])), r"field 'left_out\.sizes\[1\]' must be"),
        (lambda d: d["numbers"][0].update(left_out=blocks(sizes=[3, 3, 3])), "2 values of 3 blocks"),
        (lambda d: d["numbers"][0].update(left_out=blocks(sizes=[3, 0])), "sizes at least 1"),
        (lambda d: d.update(facts=[]), "facts must be an object"),
        (lambda d: d.update(num_images="x"), "num_images a whole number"),
        (lambda d: d["numbers"][0].update(metric=3), "field 'metric' must be"),
        (lambda d: d["numbers"][0]["protocol"].update(images="x"), "field 'protocol.images' must be"),
        (lambda d: d["numbers"][0]["protocol"].update(extender=[1]), "protocol.extender"),
        (lambda d: d["numbers"][0]["protocol"].update(settings=None), "protocol.settings: must be an object"),
        (lambda d: d["items"].append(None), r"items\[6\]: must be an object"),
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
    with pytest.raises(UserError, match="must be finite"):
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


def test_paired_differences_are_of_the_same_pictures():
    noise = np.random.default_rng(0).normal(size=6)
    a, b = scores(values=noise), scores("b", values=noise + 1)
    interval = paired_difference(a, b, "clip_score")
    assert (interval.low, interval.value, interval.high) == pytest.approx((1, 1, 1))
    with pytest.raises(UserError, match="judged different images"):
        paired_difference(a, scores("b", values=noise[:4], tags=("x",) * 4), "clip_score")
    with pytest.raises(UserError, match="was not measured in b"):
        paired_difference(a, Scores(kind="quality", name="b", numbers=()), "clip_score")
    assert paired_difference(scores(over=None), scores("b", over=None), "clip_score") is None
    shares = [
        dataclasses.replace(scores(name, values), kind="dpg")
        for name, values in (("a", range(6)), ("b", range(96, 102)))
    ]
    with pytest.raises(UserError, match=r"b has images with values outside 0\.\.100; judge them again"):
        paired_difference(*shares, "clip_score")


def test_over_tags_each_tag_counts_the_same():
    tags = ("x", "x", "x", "x", "y", "y")
    a, b = (
        dataclasses.replace(scores(name, v, "tags", tags), kind="geneval")
        for name, v in (("a", (0.0,) * 6), ("b", (0.0, 0, 0, 0, 1, 1)))
    )
    assert paired_difference(a, b, "clip_score").value == 0.5
    percent = [dataclasses.replace(one, kind="dpg") for one in (a, b)]
    assert paired_difference(*percent, "clip_score").value == pytest.approx(0.5)
    assert mean_interval([0, 0, 0, 0, 1, 1], [0, 1, 2, 3, 4, 5], tags).value == 0.5


def test_intervals_over_prompts_cover_the_truth_in_93_to_97_percent():
    """553 prompts of unequal difficulty in six tasks, 4 images each, as GenEval has them."""
    rng, covered, rounds = np.random.default_rng(3), 0, 600
    prompts = np.repeat(np.arange(553), 4)
    tags = np.repeat(np.repeat(np.arange(6), (80, 99, 80, 94, 100, 100)), 4)
    shape = np.array([4.5, 2.5, 1.5, 3, 0.5, 1])
    truth = float((shape / (shape + 2)).mean())
    for _ in range(rounds):
        skill = rng.beta(shape[tags[::4]], 2.0)  # (553,)
        values = rng.random(len(tags)) < np.repeat(skill, 4)
        interval = mean_interval(values, prompts, tags)
        covered += interval.low <= truth <= interval.high
    assert 0.93 <= covered / rounds <= 0.97
