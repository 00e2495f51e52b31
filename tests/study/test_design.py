"""What a study fixes, and which cells it has."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tessera.config import UserError, compare, from_dict, to_dict
from tessera.presets.config import RunConfig
from tessera.presets.miniature import miniature
from tessera.study.design import Cell, Study, Variant, cells, plan, resized
from tessera.study.improvements import COSTS
from tessera.study.studies import STUDIES, load_study, tau
from tessera.study.variants import base, retrained, with_ia
from tessera.train.optim.config import OptimConfig

TRAINED = [name for name in STUDIES if isinstance(load_study(name), Study)]


@pytest.mark.parametrize("name", TRAINED)
def test_cells_are_trained_on_equal_budgets_and_judged_on_the_same_prompts(name):
    study = load_study(name)
    first = study.variants[0].config
    for variant in study.variants:
        assert variant.config.prompts == first.prompts
        assert variant.config.generate == first.generate
        assert variant.config.export == first.export
        if variant.against is not None:
            other = next(v for v in study.variants if v.name == variant.against)
            cost = COSTS.get(variant.name, 1.0)  # of the ablation, whose rows take equal time
            assert variant.arm.train.num_images == pytest.approx(other.arm.train.num_images / cost, abs=64)


@pytest.mark.parametrize("name", TRAINED)
def test_the_plan_is_data_that_gives_each_configuration_back(name):
    study = load_study(name)
    said = json.loads(json.dumps(plan(study)))
    assert said["metric"]
    assert said["seeds"] == list(study.seeds)
    for variant in study.variants:
        own = dict(said["variants"][variant.name])
        arm = own.pop("arm")
        changes = {name: value for name, value in own.items() if name in said["common"]}
        config = from_dict(RunConfig, {**said["common"], **changes, "arms": [arm]}, "plan")
        assert config == variant.config


def test_no_preset_was_chosen_by_the_prompts_of_studies():
    assert base().prompts.seed not in {1, 7, 11, miniature().prompts.seed}
    assert base().generate.seed not in {1, 7, 11, miniature().generate.seed}


def test_cells_go_seed_by_seed_and_may_be_chosen():
    study = tau()
    names = [cell.name for cell in cells(study)]
    assert names[:2] == ["ta-seed0", "tau0-seed0"]
    assert names[len(study.variants)] == "ta-seed1"
    assert [cell.name for cell in cells(study, ["tau0.4"], [5])] == ["tau0.4-seed5"]
    assert Cell(study.variants[0], 5).config.arms[0].train.seed == 5
    with pytest.raises(UserError, match=r"has no arm 'tau0\.5'; did you mean 'tau0"):
        cells(study, ["tau0.5"])


def test_studies_share_the_cells_they_have_in_common():
    folders = {name: {cell.folder for cell in cells(load_study(name))} for name in TRAINED}
    common = Cell(Variant(name="any", config=with_ia(base())), 0).folder
    assert {name for name in TRAINED if common in folders[name]} == {
        *("tau", "half_view", "phases", "short_captions", "schedule")
    }
    for name in TRAINED:
        assert len(folders[name]) == len(cells(load_study(name)))


def test_another_budget_moves_phase_and_warmup_along():
    study = resized(tau(), 4800)
    for before, after in zip(tau().variants, study.variants):
        a, b = before.arm.train, after.arm.train
        assert b.num_images == a.num_images // 5 == 4800
        assert b.augment_start_image == a.augment_start_image // 5 // 32 * 32 or b.augment_start_image == 1216
        assert b.optim.warmup_images % b.batch_size == 0
        assert 0 < b.optim.warmup_images < a.optim.warmup_images


@pytest.mark.parametrize("name", ["phases", "overfit", "combined"])
def test_with_another_budget_the_axis_of_images_seen_has_those(name):
    for variant in resized(load_study(name), 9600).variants:
        assert variant.value == variant.arm.train.num_images <= 9600


def test_with_another_budget_another_axis_stays():
    study = load_study("how_many")
    assert [v.value for v in resized(study, 9600).variants] == [v.value for v in study.variants]


@pytest.mark.parametrize("images", [0, -64])
def test_no_images_are_no_budget(images):
    with pytest.raises(UserError, match=f"images is {images}: give at least 1"):
        resized(load_study("claims"), images)


def test_bad_studies_are_refused():
    good = tau()
    first = good.variants[0]
    for wrong, said in (
        ({"variants": ()}, "give at least one"),
        ({"variants": (first, first)}, "no name twice"),
        ({"seeds": (0, 0)}, "none twice"),
        ({"variants": (replace(first, against="x"),)}, "ta.against is 'x', which is no variant"),
        ({"variants": (replace(first, follows="x"),)}, "ta.follows is 'x'"),
        ({"kinds": ("long",)}, "no prompts of the kind 'long'"),
        ({"scores": ("single_objects",)}, "unknown measure 'single_objects'; did you mean 'single_object'"),
        ({"scores": ("copies",)}, "scores has 'copies', which is measured with copies=True alone"),
    ):
        with pytest.raises(UserError, match=said):
            replace(good, **wrong)
    other = replace(first, name="b", config=replace(first.config, generate=replace(first.config.generate, seed=3)))
    with pytest.raises(UserError, match="same prompts with the same settings"):
        replace(good, variants=(first, other))
    with pytest.raises(UserError, match="exactly one arm"):
        Variant(name="two", config=miniature())
    with pytest.raises(UserError, match="letters, digits"):
        Variant(name="a b", config=base())


def test_what_goes_on_has_an_equal_configuration_and_a_constant_rate():
    def made(images, follows=None, **changes):
        def change(train):
            return replace(train, **{"num_images": images, "optim": OptimConfig(decay="constant")} | changes)

        return Variant(name=f"a-{images}", follows=follows, config=retrained(base(), change))

    def pair(second, **first):
        return replace(tau(), variants=(made(64, **first), second))

    pair(made(128, "a-64"))
    cosine, cooled = OptimConfig(decay="cosine"), OptimConfig(decay="constant", cooldown_images=32)
    for both in ({"optim": cosine}, {"optim": cooled}, {"optim": OptimConfig(decay="constant"), "augment_prob_end": 1}):
        with pytest.raises(UserError, match="a-128 continues a-64, whose rate or augment_prob depends on num_images"):
            pair(made(128, "a-64", **both), **both)
    with pytest.raises(UserError, match=r'but its arms\.0\.train\.prediction is "v", not "x0"'):
        pair(made(128, "a-64", prediction="v"))
    with pytest.raises(UserError, match="a-32 continues a-64, but has fewer images: 32"):
        pair(made(32, "a-64"))


def test_variants_on_drawings_share_what_their_prompts_depend_on():
    study = load_study("drawings")
    config = study.variants[-1].config
    dealt = replace(config, augment=replace(config.augment, partners="balanced"))
    with pytest.raises(UserError, match="same prompts with the same settings"):
        replace(study, variants=(*study.variants, Variant(name="dealt", config=dealt)))
    first = tau().variants[0]
    world = replace(first.config.collect.world, colors=("red", "blue"))
    fewer = replace(first.config, collect=replace(first.config.collect, world=world))
    with pytest.raises(UserError, match="same prompts with the same settings"):
        replace(tau(), variants=(first, replace(first, name="b", config=fewer)))


def test_a_users_study_is_a_function(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import replace\n"
        "from tessera.study.studies import tau\n"
        "def only_one():\n"
        "    return replace(tau(), variants=tau().variants[:1])\n"
        "def nothing():\n"
        "    return 3\n"
    )
    assert [variant.name for variant in load_study(f"{path}:only_one").variants] == ["ta"]
    with pytest.raises(UserError, match="gives a int, wanted is a Study"):
        load_study(f"{path}:nothing")
    with pytest.raises(UserError, match="did you mean 'claims'"):
        load_study("claim")


def test_the_committed_plans_are_those_of_the_studies():
    """Fields that configurations got later have their defaults there; all that was said still holds, but for intervals:
    those of the plans, a bootstrap's, were too narrow near 0 and 1, so it and its two settings are gone. Fields that
    no longer exist had their defaults, and so had `compute`, whose default is by the machine now. The plans' runs were
    judged by an earlier form of the detector.
    """
    gone = {
        "compute": '"bf16"',
        "device_batch_size": "null",
        "ema_decay": "null",
        "ema_warmup": "true",
        "ema_extra_decays": "[]",
        "metric": '"geneval-miniature-1"',
        "min_snr_gamma": "null",
        "qk_norm": "true",
        "short_share": "0.0",
        "t_distribution": '"uniform"',
    }
    intervals = ("interval", "common.evaluate.resamples", "common.evaluate.seed", "question")
    of_balance = {"true": '"balanced"', "false": '"paper"'}  # the field that `objective` took the place of
    for path in sorted((Path(__file__).parents[2] / "results" / "plans").glob("*.json")):
        ours = json.loads(json.dumps(plan(load_study(path.stem))))
        pairs = compare(json.loads(path.read_text()), ours)
        now = {name: value for name, _, value in pairs}
        changed = [
            pair
            for pair in pairs
            if pair[1] != "nothing" and pair[0] not in intervals and gone.get(pair[0].split(".")[-1]) != pair[1]
            if of_balance.get(pair[1]) != now.get(pair[0].replace("balance_loss", "objective"))
        ]
        assert changed == [], path.name


def test_configurations_of_variants_survive_json():
    for variant in load_study("claims").variants:
        assert from_dict(RunConfig, json.loads(json.dumps(to_dict(variant.config))), "x") == variant.config
