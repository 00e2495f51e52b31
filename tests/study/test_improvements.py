"""The built-in studies of improvements: each row varies what it says."""

from dataclasses import replace

import pytest

from tessera.config import compare, to_dict
from tessera.curate.index import read_recipe
from tessera.encoded.store import open_encoded
from tessera.prompts.miniature import PromptConfig
from tessera.study.datasets import prepare
from tessera.study.improvements import COSTS, ablation, alignment, partners, schedule, short_captions, tau_image


def test_each_varies_one_thing():
    mixes = [v.config.arms[0].train.caption_mix for v in short_captions().variants]
    assert {mix.get("short", 0.0) for mix in mixes} == {0.0, 0.15, 0.3, 0.5}
    ends = {v.name: v.config.arms[0].train for v in schedule().variants}
    assert ends["rising"].augment_prob < (ends["rising"].augment_prob_end or 0)
    assert ends["falling"].augment_prob > (ends["falling"].augment_prob_end or 1)


def test_tau_alone_differs_where_it_is_of_each_image():
    one, *rows = tau_image().variants
    fields = {"pattern": "augment_min_t", "image": "augment_min_t", "masked": "seam_margin"}
    for row in rows:
        changed = {name for name, _, _ in compare(to_dict(one.config), to_dict(row.config))}
        if row.name == "crops":
            expected = {"augment.half_view", "augment.pattern", "arms.0.train.augment_min_t"}
            assert changed == expected | {"arms.0.train.augment_max_t"}
        else:
            assert changed == {f"arms.0.train.{fields[row.name]}"}


@pytest.mark.parametrize("study", [tau_image, partners])
def test_the_sets_of_each_kind_of_mix_can_be_made(study, tmp_path):
    made = set()
    for row in study().variants:
        world = row.config.collect.world
        small = replace(row.config.collect, world=replace(world, num_images=24))
        data = prepare(tmp_path, replace(row.config, collect=small, prompts=PromptConfig(per_task=1)))
        assert len(open_encoded(data.augmented)) == 24
        kept = [(mix.partner, mix.placement) for mix in read_recipe(data.recipe).rows]
        made.add(str(kept))
    assert len(made) == len({str(row.config.augment) for row in study().variants})


def test_the_objective_alone_differs_in_the_study_of_alignment():
    usual, *rows = alignment().variants
    for row in rows:
        changed = {name for name, _, _ in compare(to_dict(usual.config), to_dict(row.config))}
        expected = {"objective"} | ({"align_until_image"} if row.name == "self_first_half" else set())
        assert changed == {f"arms.0.train.{name}" for name in expected}


def test_a_row_of_the_ablation_changes_one_thing_at_equal_time():
    preset, *rows = ablation().variants
    size = preset.arm.train.num_images
    budget = ("num_images", "augment_start_image", "caption_mix_start_image", "warmup_images", "cooldown_images")
    parts: dict[str, set[str]] = {}
    for row in rows:
        paths = [path for path, *_ in compare(to_dict(preset.config), to_dict(row.config))]
        kinds = {path.removeprefix("arms.0.train.").split(".")[0] for path in paths if not path.endswith(budget)}
        parts[row.name] = kinds or {path.split(".")[-1] for path in paths}
        assert row.arm.train.num_images == pytest.approx(size / COSTS.get(row.name, 1.0), abs=row.arm.train.batch_size)
        assert row.against == "preset"
    assert parts.pop("no_cooldown") == {"cooldown_images"}
    assert parts.pop("short_from_start") == {"caption_mix_start_image"}
    assert all(len(changed) == 1 for changed in parts.values()), parts
    assert set(COSTS) <= set(parts)
