"""The first lines of a run's page."""

from dataclasses import replace

import pytest

from tessera.report.arms import describe_arms
from tessera.report.sections.opening import Budget, strips, too_small, what_is_drawn
from tiny.scores import judged, miniature_scores

TA, TA_IA = describe_arms(["ta", "ta_ia"])
JUDGE = {"one_object": 1.0, "two_objects": 0.98, "torn": 0.1, "merged": 0.02, "blurred": 0.0}


def scored(judge=JUDGE, **shares):
    """Scores whose tasks have these shares of ten images."""
    items = [judged(number, 0, tag, number < 10 * share) for tag, share in shares.items() for number in range(10)]
    return miniature_scores("x", items, judge=judge)


def test_a_sentence_says_what_is_drawn_rightly_in_part_and_not():
    scores = {"ta_ia": scored(single_object=1.0, colors=0.8, two_object=0.7, position=0.2, counting=0.1)}
    assert what_is_drawn([TA, TA_IA], scores, "extended prompts") == (
        "Of the extended prompts, TA+IA draws single objects (1.00) and single objects in their color (0.80) rightly,"
        " two objects (0.70) and two objects in their places (0.20) in part, counted objects (0.10) not. The judge"
        " takes 0.98 of sound renders for right, 0.10 of torn, 0.02 of merged, 0.00 of blurred ones."
    )
    scores["ta"] = scored(single_object=0.1, colors=0.0)
    said = what_is_drawn([TA, TA_IA], scores, "extended prompts")
    assert said.startswith(
        "Of the extended prompts, TA draws nothing rightly (at most 0.10 of a task); TA+IA draws single"
    )
    assert what_is_drawn([TA], {}, "") == ""
    assert what_is_drawn([TA], {"ta": scored(judge={}, colors=1.0)}, "short prompts") == (
        "Of the short prompts, TA draws single objects in their color (1.00) rightly."
    )


POINTS = {"ta": [(64, 0.5), (960, 0.25)], "ta_ia": [(960, 0.3)]}
ENOUGH = Budget(preset="miniature", num_images=33_600)
NOTHING = dict.fromkeys(("single_object", "two_object", "counting", "colors", "position", "color_attr"), 0.1)


def test_a_budget_that_is_too_small_is_named_with_loss_and_score_and_one_that_drew():
    scores = {"ta": scored(**NOTHING), "ta_ia": scored(single_object=0.0)}
    assert too_small([TA, TA_IA], scores, POINTS, ENOUGH) == (
        "Nothing is drawn rightly yet: TA after 960 images (loss 0.500 at first, 0.250 at last; strict score 0.10) and"
        " TA+IA after 960 images (loss 0.300; strict score 0.00). The budget is too small: the preset miniature draws"
        " after 33,600 images."
    )


@pytest.mark.parametrize("budget", [None, Budget(preset="miniature", num_images=960)])
def test_no_other_budget_is_named_where_it_was_no_larger(budget):
    said = too_small([TA], {"ta": scored(**NOTHING)}, POINTS, budget)
    assert said.endswith("strict score 0.10).")


def test_a_model_that_draws_something_or_has_no_judge_is_not_told_so():
    drawn = scored(**(NOTHING | {"colors": 0.2}))
    assert too_small([TA], {"ta": drawn}, POINTS, ENOUGH) == ""
    assert too_small([TA], {}, POINTS, ENOUGH) == ""
    assert too_small([TA], {"ta": replace(drawn, numbers=())}, POINTS, ENOUGH) == ""
    both = too_small([TA, TA_IA], {"ta": drawn, "ta_ia": scored(**NOTHING)}, POINTS, ENOUGH)
    assert both.startswith("Nothing is drawn rightly yet: TA+IA after 960 images (loss")


def test_the_strips_show_the_first_prompt_of_each_task_of_each_kind():
    def kind(title, groups):
        return {"title": title, "groups": [{"prompts": [f"{title} {n} first", f"{title} {n} second"]} for n in groups]}

    assert strips([{"title": "short", "groups": [{"title": "", "prompts": list("abcdefgh")}]}]) == [
        {"title": "short", "prompts": list("abcdef")}
    ]
    found = strips([kind("long", range(3)), kind("short", range(2)), kind("single", range(1))])
    assert found == [
        {"title": "long", "prompts": ["long 0 first", "long 1 first", "long 2 first"]},
        {"title": "short", "prompts": ["short 0 first", "short 1 first"]},
    ]
