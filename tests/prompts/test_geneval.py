"""GenEval's prompts: ours against the published list, which the shipped file must be."""

import hashlib
from collections import Counter

from tessera.prompts.geneval import CLASSES, COLORS, draw_prompts, to_bytes
from tessera.prompts.read import load_prompts

PUBLISHED_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of evaluation_metadata.jsonl as GenEval's authors published it."""


def test_seed_43_gives_the_published_list():
    assert hashlib.sha256(to_bytes(draw_prompts())).hexdigest() == PUBLISHED_SHA256


def test_the_published_list_ships():
    shipped = load_prompts("geneval")
    assert shipped.sha256 == PUBLISHED_SHA256
    tags = Counter(metadata["tag"] for metadata, _ in shipped.rows)
    assert tags == {
        "single_object": 80,
        "two_object": 99,
        "counting": 80,
        "colors": 94,
        "position": 100,
        "color_attr": 100,
    }
    assert len(shipped.rows) == 553


def test_another_seed_keeps_the_rules():
    lines = draw_prompts(seed=7, per_task=50)
    assert len({line["prompt"] for line in lines}) >= len(lines) - 5  # a counting line may differ in exclude alone
    for line in lines:
        clauses = line["include"]
        assert all(clause["class"] in CLASSES for clause in clauses)
        assert all(clause["color"] in COLORS and clause["class"] != "person" for clause in clauses if "color" in clause)
        if line["tag"] == "counting":
            assert line["exclude"] == [{"class": clauses[0]["class"], "count": clauses[0]["count"] + 1}]
            assert 2 <= clauses[0]["count"] <= 4
        if line["tag"] == "position":
            first, relation = clauses[1]["class"], clauses[1]["position"][0]
            assert f"{first} {relation} a" in line["prompt"]
