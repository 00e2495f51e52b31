"""The sentences of a study's page, of small results that are known."""

from dataclasses import replace

import pytest

from tessera.study.answer import answer
from tessera.study.studies import claims_smoke

SEEDS = [0, 1, 2]


def values(low, value, high):
    return {"low": low, "value": value, "high": high}


def results(arms, differences, chance=None, **other):
    """results.json of the measure both_colors (low, value, high), by arm and by pair."""
    table = {
        "arms": {name: {"seeds": SEEDS, "scores": {"both_colors": values(*ends)}} for name, ends in arms.items()},
        "differences": {names: {"scores": {"both_colors": values(*ends)}} for names, ends in differences.items()},
        "chance": {} if chance is None else {"both_colors": chance},
    }
    return {"tables": {"extended": table}, "cells": {}, "missing": [], **other}


def told(found, *names, **changes):
    study = replace(claims_smoke(), kinds=("extended",), seeds=tuple(SEEDS), scores=("both_colors",), **changes)
    return answer(study, found, {variant.name: variant.name.upper() for variant in study.variants})


CLAIMS = {"aio": (0, 0, 0.02), "ta": (0.01, 0.03, 0.07), "ta_ia": (0.91, 0.95, 0.98)}


def test_the_best_is_told_with_its_difference_and_chance():
    found = results(CLAIMS, {"ta - aio": (-0.01, 0.03, 0.07), "ta_ia - ta": (0.88, 0.92, 0.95)}, chance=0.1)
    assert told(found) == [
        "TA_IA, best of 3, draws both colors of two objects in 0.95 of images (chance: 0.10), 0.92 more than TA"
        " (95% interval 0.88 to 0.95)."
    ]


def test_where_the_first_measure_tells_no_difference_the_one_that_tells_the_largest_does():
    found = results({"ta": (0.1, 0.2, 0.3), "ta_ia": (0.1, 0.2, 0.4)}, {"ta_ia - ta": (-0.1, 0.0, 0.2)})
    table = found["tables"]["extended"]
    for arm in table["arms"].values():
        arm["scores"] |= dict.fromkeys(("seam", "two_object", "single_object", "counting"), values(0, 0.5, 1))
    more = {"two_object": (-0.5, -0.3, -0.1), "single_object": (0.1, 0.2, 0.3), "counting": (-0.1, 0.4, 0.9)}
    more |= {"seam": (0.8, 0.9, 1.0)}
    table["differences"]["ta_ia - ta"]["scores"] |= {name: values(*ends) for name, ends in more.items()}
    study = replace(claims_smoke(), kinds=("extended",), scores=("both_colors", "counting", *more))
    labels = {variant.name: variant.name.upper() for variant in study.variants}
    *_, last = answer(study, found, labels)
    assert last == ("But by the measure 'Two objects' TA_IA has 0.30 less than TA (95% interval 0.10 to 0.50).")
    table["differences"]["ta_ia - ta"]["scores"] |= {"two_object": None, "single_object": values(-0.1, 0.2, 0.3)}
    assert "But by" not in " ".join(answer(study, found, labels))


def test_no_difference_can_be_told_where_its_interval_has_0():
    arms = {"ta": (0.01, 0.03, 0.12), "ta_ia": (0.02, 0.05, 0.13)}
    assert told(results(arms, {"ta_ia - ta": (-0.03, 0.02, 0.07)}, chance=0.1)) == [
        "No difference can be told: TA_IA draws both colors of two objects in 0.05 of images (not clearly above chance:"
        " 0.10), 0.02 more than TA (95% interval \u22120.03 to 0.07)."
    ]


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((-0.6, -0.5, -0.4), "next comes TA_IA, with 0.50 less (95% interval 0.40 to 0.60)."),
        (
            (-0.6, -0.2, 0.1),
            "next comes TA_IA, which cannot be told from it: 0.20 less (95% interval \u22120.10 to 0.60).",
        ),
    ],
    ids=["clear", "unclear"],
)
def test_where_what_others_are_compared_with_is_best_the_next_one_is_told(ends, text):
    arms = {"ta": (0.7, 0.8, 0.9), "ta_ia": (0.2, 0.3, 0.4)}
    doubt = "" if ends[2] < 0 else "No difference can be told: "
    (sentence,) = told(results(arms, {"ta_ia - ta": ends}))
    assert sentence == f"{doubt}TA draws both colors of two objects in 0.80 of images; {text}"


def test_an_unclear_step_to_a_best_that_beats_others_clearly():
    differences = {"ta - aio": (-0.01, 0.04, 0.09), "ta_ia - ta": (-0.9, -0.8, -0.7)}
    arms = {"aio": (0.8, 0.86, 0.9), "ta": (0.8, 0.9, 0.95), "ta_ia": (0.05, 0.1, 0.2)}
    assert told(results(arms, differences)) == [
        "TA, best of 3, draws both colors of two objects in 0.90 of images, 0.04 more than AIO"
        " (95% interval \u22120.01 to 0.09), which may be none; next comes TA_IA, with 0.80 less"
        " (95% interval 0.70 to 0.90)."
    ]


def test_equal_variants_are_no_answer():
    same = (0, 0, 0.14)
    assert told(results({"aio": same, "ta": same, "ta_ia": same}, {"ta_ia - ta": (-0.14, 0, 0.14)})) == [
        "No difference can be told: each of 3 variants draws both colors of two objects in 0.00 of images."
    ]
    assert told(results({"aio": same, "ta": (0.9, 1, 1), "ta_ia": (0.9, 1, 1)}, {})) == [
        "TA and TA_IA are best of 3: each draws both colors of two objects in 1.00 of images."
    ]


def test_less_is_better_for_seams():
    found = results(CLAIMS, {})
    arms = {"ta": (0.2, 0.22, 0.25), "ta_ia": (0.1, 0.12, 0.15)}
    table = {"arms": {name: {"seeds": SEEDS, "scores": {"seam": values(*ends)}} for name, ends in arms.items()}}
    table["differences"] = {"ta_ia - ta": {"scores": {"seam": values(-0.12, -0.1, -0.08)}}}
    study = replace(claims_smoke(), kinds=("extended",), scores=("seam",))
    labels = {variant.name: variant.name for variant in study.variants}
    assert answer(study, found | {"tables": {"extended": table}}, labels) == [
        "ta_ia has a seam score of 0.12, 0.10 less than ta (95% interval 0.08 to 0.12)."
    ]


def test_missing_cells_and_few_seeds_are_said():
    found = results(CLAIMS, {}, missing=["ta-seed2", "aio-seed1"], cells=dict.fromkeys("abcd"))
    assert told(found)[1:] == ["So far 4 of 6 cells are done."]
    found["tables"]["extended"]["arms"]["ta"]["seeds"] = [0]
    assert told(found)[2:] == ["Some of it rests on one training seed, and another may change it."]
    for arm in found["tables"]["extended"]["arms"].values():
        arm["seeds"] = [0, 1]
    assert told(found)[2:] == ["This rests on two training seeds, which say little about others."]
    nothing = {"tables": {}, "cells": {}, "missing": ["a", "b"]}
    assert told(nothing) == ["So far 0 of 2 cells are done."]


def test_with_one_kind_of_prompts_a_second_measure_follows_or_the_distance_to_held_out_images():
    found = results(CLAIMS, {})
    for arm in found["tables"]["extended"]["arms"].values():
        arm["scores"]["single_object"] = values(0.9, 1, 1)
    study = replace(claims_smoke(), kinds=("extended",), scores=("both_colors", "single_object", "seam"))
    labels = {variant.name: variant.name for variant in study.variants}
    first, second = answer(study, found, labels)
    assert second == "No difference can be told: each of 3 variants draws a single object as asked in 1.00 of images."
    near = {"arms": {"ta": {"value": 0.2}, "ta_ia": {"value": 0.123}}, "floor": 0.017}
    assert answer(study, found | {"likeness": near}, labels) == [
        first,
        "ta_ia comes nearest to held-out images, at a distance of 0.123 (other held-out images: 0.017); distances have"
        " no intervals.",
    ]
    two = found | {"tables": {"extended": found["tables"]["extended"], "short": found["tables"]["extended"]}}
    told = answer(replace(study, kinds=("extended", "short")), two, labels)
    assert told == [f"Extended prompts: {first}", f"Short prompts: {first}"]
