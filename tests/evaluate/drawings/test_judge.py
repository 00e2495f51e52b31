"""A judge of drawings: trained once, it says how often it is right about an artist that it has not seen."""

from collections import Counter

import numpy as np
import pytest
import torch

from tessera.config import UserError
from tessera.evaluate.drawings.composed import compose_scene
from tessera.evaluate.drawings.judge import COLORS, JudgeConfig, _fit_namer, _training_scene, load_judge, train_judge
from tessera.evaluate.drawings.naming import crop
from tessera.evaluate.miniature.detector import to_input
from tessera.stages import read_manifest
from tiny.drawings import squares

QUICK = JudgeConfig(concepts=("square", "frame", "bar"), held_out="two", scenes=64, steps=20, tested=12, width=4)


def test_a_judge_is_trained_once_and_says_how_often_it_is_right(tmp_path):
    train_judge(tmp_path, squares, QUICK)
    known = load_judge(tmp_path)
    assert known.concepts == QUICK.concepts
    assert known.network.colors == COLORS
    shares = {name: value for name, value in known.accuracy.items() if name != "scenes"}
    assert all(0 <= value <= 1 for value in shares.values())
    assert shares["unseen_style"] == 1
    assert set(read_manifest(tmp_path).facts["weakest"]) == {"square", "frame", "bar"}
    train_judge(tmp_path, lambda: pytest.fail("drawn again"), QUICK)


def test_scenes_of_training_show_all_names_those_of_the_judge_more_often():
    drawn, shown = squares(), Counter()
    rows = [[row for row, each in enumerate(drawn.names) if each == name] for name in ("square", "triangle")]
    for seed in range(300):
        _, placed = _training_scene(drawn, rows, 1, np.random.default_rng(seed))
        shown.update(drawn.names[each.row] for each in placed)
    assert 0.25 < shown["square"] / shown.total() < 0.35


def test_it_tells_at_least_three_apart():
    with pytest.raises(UserError, match="give three or more, none twice"):
        JudgeConfig(concepts=("square", "frame"), held_out=None)


def test_halves_of_drawings_are_named_too():
    """The namer of drawings seen whole alone is right about 0.6 of them."""
    drawn = squares()
    names = list(dict.fromkeys(drawn.names))
    rows = [[row for row, each in enumerate(drawn.names) if each == name] for name in names]
    made = [_training_scene(drawn, rows, 3, np.random.default_rng(seed)) for seed in range(800)]
    images, scenes = zip(*made)
    config = JudgeConfig(concepts=tuple(names[:3]), held_out=None)
    namer = _fit_namer(drawn, names, np.stack(images), scenes, config)
    right = []
    for seed in range(100):
        rng = np.random.default_rng(10_000 + seed)
        asked = rng.choice(3, 2, replace=False)
        image, placed = compose_scene(drawn, [int(rng.choice(rows[n])) for n in asked], rng, halves=True)
        seen, boxes = to_input(np.stack([image, image])), torch.tensor([(*p.center, p.diameter) for p in placed])
        named = namer.shares(crop(seen, namer.refined(seen, boxes)), 3).argmax(1)
        right += (named == torch.from_numpy(asked)).tolist()
    assert np.mean(right) > 0.85
