"""plan: the arithmetic against numbers worked out by hand, and command lines that parse."""

import functools
import shlex
from dataclasses import replace

import pytest

from tessera import cli
from tessera.config import UserError
from tessera.devices import PEAK_TFLOPS
from tessera.plan import (
    CAPTION_UTILIZATION,
    CAPTIONER_PARAMETERS,
    IMAGE_TOKENS,
    PROMPT_TOKENS,
    VISION_FLOP,
    PlanConfig,
    commands,
    describe,
    disk,
    gpu_hours,
    memory,
    step_flop,
    to_json,
)
from tessera.presets.lookup import load_train_preset
from tessera.pretrained.captioner.llava import QUESTION_TOKENS, WORKSPACE, fitting_batch
from tessera.pretrained.captioner.prompt import MAX_NEW_TOKENS

PAPER = PlanConfig(images=1_281_167)


@pytest.mark.parametrize(
    ("network", "tokens", "step"),
    [("dit", 128, 630), ("dit", 190, 664), ("dit", 256, 701), ("cad", 128, 636), ("cad", 190, 651), ("cad", 256, 667)],
)
def test_flops_of_a_step(network, tokens, step):
    assert step_flop(PlanConfig(images=9, network=network, mean_tokens=tokens)) / 1e9 == pytest.approx(step, abs=1)


def test_small_networks_have_their_own_presets():
    plans = [PlanConfig(images=20_000, network=network, gpus=1, init=init) for network, init in SMALL]
    assert [plan.preset for plan in plans] == ["dit-i-s", "dit-i-b", "dit-i-b"]
    assert [plan.samples for plan in plans] == [5_120_000, 10_240_000, 10_240_000]
    # By hand: 12 blocks of 28 N D^2 + 4 N^2 D and cross-attention of 180 tokens, times three.
    n, tokens = 256, 180
    for plan, d in zip(plans, (384, 768)):
        block = 28 * n * d**2 + 4 * n**2 * d + 4 * tokens * d**2 + 4 * n * tokens * d
        assert 1 < step_flop(plan) / (3 * 12 * block) < 1.25  # the rest: text, time and both ends
    assert "train dit-i-s:ta_ia --plain encoded/plain" in commands(plans[0])[-1]


SMALL = (("dit-s", None), ("dit-b", None), ("dit-b", "export/mine"))


def test_what_fits_into_a_gpu():
    found = {gib: memory(PlanConfig(images=9, network="dit-s", gpus=1, gpu_memory=gib)) for gib in (0.5, 12, 24)}
    assert found[12]["state"] == pytest.approx(22 * 33_900_560)
    assert found[0.5]["fits"] == 0
    for gib in (12, 24):
        needed = [found[gib]["state"] + n * found[gib]["activations of an image"] for n in (1, 2)]
        assert 256 % found[gib]["fits"] == 0
        room = 0.9 * gib * 2**30
        assert found[gib]["state"] + found[gib]["fits"] * (needed[1] - needed[0]) <= room
        assert found[gib]["state"] + 2 * found[gib]["fits"] * (needed[1] - needed[0]) > room
    told = describe(PlanConfig(images=9, network="dit-s", gpus=1, gpu_memory=12))
    assert f"in 12 GiB, 10% of it kept free: --device-batch-size {found[12]['fits']:.0f} fits" in told
    assert "not even one image fits: train with --gradient-checkpointing" in describe(
        PlanConfig(images=9, network="dit-s", gpus=1, gpu_memory=0.5)
    )


def test_hours_of_the_papers_training():
    config = PlanConfig(images=1_281_167, mean_tokens=190, gpu_tflops=790, utilisation=1.0)
    assert gpu_hours(config)["train"] == pytest.approx(60, abs=0.5)
    assert gpu_hours(PlanConfig(images=1_281_167, mean_tokens=190))["train"] == pytest.approx(133, abs=1)


def test_hours_follow_from_the_model_of_the_gpu():
    def hours(**gpu):
        return gpu_hours(PlanConfig(images=1_281_167, mean_tokens=190, **gpu))

    ours = hours()
    h200, a100 = hours(gpu="H200"), hours(gpu="A100")
    assert h200["train"] == pytest.approx(ours["train"] * 0.36 / 0.39)
    assert h200["encode"] == ours["encode"]
    assert hours(gpu="H100", network="cad")["train"] == pytest.approx(hours(network="cad")["train"] * 0.36 / 0.38)
    assert a100["train"] / ours["train"] == pytest.approx(989 / 312)
    assert a100["caption"] / ours["caption"] == pytest.approx(989 * 0.20 / (312 * 0.39))
    assert a100["encode"] / ours["encode"] == pytest.approx(198 / (312 * 0.38))
    assert hours(gpu="GB200")["encode"] == pytest.approx(ours["encode"])  # as fast as a process feeds it
    assert hours(gpu="H100", gpu_tflops=989, utilisation=0.36) == pytest.approx(ours)


MEMORY = {"GB200": (189, 8.0), "B200": (180, 8.0), "H200 NVL": (141, 4.8), "H100 NVL": (94, 3.9)}
MEMORY |= {"H100 PCIe": (80, 2.0), "H20": (96, 4.0), "A100": (80, 2.0), "A30": (24, 0.93), "L40S": (48, 0.86)}
MEMORY |= {"L40": (48, 0.86), "L4": (24, 0.3), "RTX 3090": (24, 0.94), "RTX 4090": (24, 1.01)}
"""GB of a model of GPU and TB/s, by its data sheet."""


@pytest.mark.parametrize("model", MEMORY)
def test_shares_of_captions_are_those_of_the_estimate(model):
    (memory, bandwidth), peak = MEMORY[model], PEAK_TFLOPS[model]
    weights, each = 16.1, 131_072e-9  # GB; of keys and values of a token
    batch = fitting_batch(0.9 * memory - weights, WORKSPACE * QUESTION_TOKENS * each)
    prompt, words = IMAGE_TOKENS + PROMPT_TOKENS, 180
    token = max(0.027, (weights + batch * each * (prompt + words / 2)) / (0.8e3 * bandwidth))
    read = 2e-12 * CAPTIONER_PARAMETERS * prompt + 1e-12 * VISION_FLOP  # TFLOP
    seconds = read / (0.5 * peak) + token * MAX_NEW_TOKENS / batch
    share = (read + 2e-12 * CAPTIONER_PARAMETERS * words) / (seconds * peak)
    assert CAPTION_UTILIZATION[model] == pytest.approx(share, abs=0.015)


def test_disk_of_the_papers_sets():
    sizes = disk(PAPER)
    # 180 tokens of 2112 bytes, and 16 kB of latents, before captions and keys.
    assert sizes["encoded/plain"] == sizes["encoded/all"]
    assert 1.281167 * (0.38016 + 0.016384) < sizes["encoded/plain"] / 1e12 < 1.281167 * (0.38016 + 0.016384 + 0.002)
    assert list(sizes) == [
        "images", "recipe/all", "captions/plain", "encoded/plain", "captions/all", "encoded/all",
    ]  # fmt: skip
    assert list(disk(PlanConfig(images=9, sets=1))) == ["images", "captions/plain", "encoded/plain"]
    assert len(disk(PlanConfig(images=9, sets=6))) == 1 + 3 * 6 - 1


def test_shorter_captions_add_their_own_text_alone():
    """Medium and short ones to plain images, short ones to mixed ones; the captioner's work stays."""
    with_levels = PlanConfig(images=1_281_167, levels=True)
    before, after = disk(PAPER), disk(with_levels)
    token = 2048 + 2 * 2048 // 64 + 4.6
    assert after["encoded/plain"] - before["encoded/plain"] == pytest.approx(1_281_167 * (0.46 * 180 + 15) * token)
    assert after["encoded/all"] - before["encoded/all"] == pytest.approx(1_281_167 * 15 * token)
    assert after["captions/plain"] == before["captions/plain"]
    assert after["captions/all_levels"] == pytest.approx(before["captions/all"] * 195 / 180)
    hours, more = gpu_hours(PAPER), gpu_hours(with_levels)
    assert more["caption"] == hours["caption"]
    assert more["train"] == hours["train"]
    assert hours["encode"] < more["encode"] < 1.5 * hours["encode"]
    assert "medium captions have 46% of a long one's tokens, short ones 15" in describe(with_levels)
    assert "medium" not in describe(PAPER)


def test_the_text_says_what_was_counted():
    text = describe(PAPER)
    sizes, hours = disk(PAPER), gpu_hours(PAPER)
    for words in ("1,281,167 images", "2112 bytes a token", f"{hours['train']:.1f}", "256,000,000 samples"):
        assert words in text
    assert f"{sizes['encoded/plain'] / 1e9:.3g} GB" in text
    for line in commands(PAPER):
        assert line in text


@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize("sets", range(1, 7))
def test_commands_parse(sets, levels, monkeypatch):
    called = []
    stubs = {
        name: functools.wraps(verb)(lambda *args, _name=name, **kwargs: called.append(_name))
        for name, verb in cli.VERBS.items()
    }
    monkeypatch.setattr(cli, "VERBS", stubs)
    lines = commands(PlanConfig(images=100, sets=sets, levels=levels))
    for line in lines:
        words = shlex.split(line)
        start = words.index("tessera.cli") if words[0] == "torchrun" else words.index("tessera")
        cli.parse.app(cli.VERBS, cli.GROUPS).cli(args=words[start + 1 :], prog="tessera")
    assert called.count("encode") == sets
    assert called.count("caption") == (1 + levels) * sets
    assert called.count("augment") == sets - 1
    assert called[0] == "collect"
    assert called.count("train") == max(sets - 1, 1)


@pytest.mark.parametrize("network", ["dit", "cad"])
@pytest.mark.parametrize("init", [None, "export/published"])
def test_presets_exist_and_see_as_many_samples(network, init):
    plan = PlanConfig(images=9, network=network, init=init)
    config = load_train_preset(f"{plan.preset}:ta_ia")
    assert config.num_images == plan.samples
    assert (" --init export/published " in commands(plan)[-1]) == (init is not None)
    assert "--num-images" not in commands(plan)[-1]
    assert config.batch_size == plan.batch


@pytest.mark.parametrize("init", [None, "export/published"])
@pytest.mark.parametrize("asked", [1, 77, 1_000_000, 1_024_000])
def test_training_takes_the_number_of_samples_that_its_command_says(init, asked):
    """Which has to be of whole steps."""
    plan = PlanConfig(images=9, init=init, train_images=asked)
    words = commands(plan)[-1].split()
    said = int(words[words.index("--num-images") + 1])
    config = load_train_preset(f"{plan.preset}:ta_ia", num_images=said)
    assert config.num_images == plan.samples == to_json(plan)["asked"]["train_images"]
    assert asked <= said < asked + config.batch_size


def test_a_shorter_training_is_cooled_down_over_the_presets_share():
    plan = PlanConfig(images=200, network="dit-s", train_images=512_000)
    assert " --num-images 512000 --cooldown-images 102400 --out" in commands(plan)[-1]
    assert "--cooldown-images" not in commands(replace(plan, network="dit"))[-1]


def test_money_is_the_users_price():
    """Two sets of CM patterns next to the plain one are two trainings, and all of them are paid."""
    assert "Money" not in describe(PAPER)
    assert to_json(PAPER)["money"] is None
    paid = PlanConfig(images=1_281_167, sets=3, price=2.5)
    hours = gpu_hours(paid)
    expected = 2.5 * (hours["caption"] + hours["encode"] + 2 * hours["train"])
    assert to_json(paid)["money"] == pytest.approx(expected) == pytest.approx(2.5 * gpu_hours(paid)["in all"])
    assert f"{expected:.1f}  assumed, at 2.5 for an hour of a GPU" in describe(paid)


def test_bad_plans():
    for bad, message in (
        ({"images": 0}, "images is 0; give a number above 0"),
        ({"sets": 7}, "sets is 7"),
        ({"network": "unet"}, "network is 'unet'; give one of 'dit', 'cad'"),
        ({"utilisation": 2}, "utilisation is 2"),
        ({"gpu": "H20O"}, "gpu: 'H20O' is not known; did you mean 'H20'"),
        ({"gpus": 0}, "gpus is 0; give a number above 0"),
        ({"gpus": 6}, "gpus is 6: 1024 samples of a step cannot be split so; give 4"),
        ({"gpus": 512, "init": "export"}, "gpus is 512: 256 samples .* give 256"),
        ({"price": 0}, "price is 0; give a number above 0"),
        ({"price": float("nan")}, "price is nan"),
        ({"train_images": -1}, "train_images is -1"),
    ):
        with pytest.raises(UserError, match=message):
            PlanConfig(**{"images": 5} | bad)


def test_a_budget_that_shows_each_image_too_often_is_said():
    assert "each image is seen 200 times\n" in describe(PAPER)
    said = describe(PlanConfig(images=6000))
    assert "each image is seen 42,667 times, far more than the paper's 200" in said
    assert "try --network dit-s for up to 20,000 images or --train-images 15360000\n" in said
    small = PlanConfig(images=500, network="dit-s")
    assert "10,240 times" in describe(small)
    assert "--network" not in describe(small).split("Assumed")[0]
    enough = replace(PlanConfig(images=6000), train_images=15_360_000)
    assert "seen 2,560 times\n" in describe(enough)
    assert to_json(enough)["views"] == 2560


def test_a_training_that_ends_within_its_warm_up_is_said_and_not_proposed():
    short = PlanConfig(images=1000, train_images=2_560_000)
    assert "rises over 5,120,000 images, so no step has its peak; give --train-images 10240000 or more" in describe(
        short
    )
    assert "no step" not in describe(replace(short, train_images=5_120_000))
    proposed = describe(replace(short, train_images=None))
    assert "by heart; try --network dit-s for up to 20,000 images\n" in proposed
    assert "by heart; try more images\n" in describe(PlanConfig(images=50, network="dit-s"))
