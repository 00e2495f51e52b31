"""The configuration of a whole run: arms and stages that do not fit together are refused."""

from dataclasses import replace

import pytest

from tessera.config import UserError
from tessera.presets.miniature import miniature_smoke

RUN = miniature_smoke()
TA, TA_IA = RUN.arms


@pytest.mark.parametrize(
    ("arm", "changes", "named"),
    [
        (TA, {"name": "a b"}, "arm name 'a b'"),
        (TA, {"augmented": True}, "arm ta: augmented is True, augment_prob 0.0"),
        (TA_IA, {"augmented": False}, "arm ta_ia: augmented is False"),
    ],
)
def test_arms_that_contradict_themselves_are_refused(arm, changes, named):
    with pytest.raises(UserError, match=named):
        replace(arm, **changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"arms": ()}, "at least one"),
        ({"arms": (TA, TA)}, "no name twice"),
        ({"prompts": None}, "evaluate needs prompts"),
        ({"parallel": 0}, "parallel is 0"),
        ({"class_prompts": 0}, "class_prompts is 0"),
    ],
)
def test_runs_that_cannot_be_carried_out_are_refused(changes, named):
    with pytest.raises(UserError, match=named):
        replace(RUN, **changes)


def test_extended_prompts_are_sampled_where_there_are_prompts():
    assert [(name, config.extended) for name, config in RUN.sample_sets().items()] == [
        ("short", False),
        ("extended", True),
    ]
    assert list(replace(RUN, prompts=None, evaluate=None).sample_sets()) == ["short"]
