"""The preset of emoji."""

import functools
import json
from dataclasses import replace

import pytest

from tessera import packages, run
from tessera.config import UserError
from tessera.curate.emoji.draw import CAPTIONS
from tessera.encoded.store import open_encoded
from tessera.models.dit import DiTConfig
from tessera.models.rin import RINConfig
from tessera.presets.emoji import emoji
from tessera.presets.lookup import load_run_preset
from tessera.prompts.miniature import PromptConfig
from tessera.prompts.style import extend_in_style
from tessera.stages import read_manifest
from tessera.weights.export import read_settings
from tiny.emoji import cache_in, tiny_emoji


def test_sizes_networks_and_styles_by_flags():
    small = load_run_preset("emoji", styles=("noto", "fluent"), size=64, network="cad", num_images=9600)
    assert small.collect.size == 64
    for arm in small.arms:
        assert isinstance(arm.train.model, RINConfig)
        assert (arm.train.model.latent_size, arm.train.model.text_width) == (16, 384)
        assert arm.train.num_images == 9600
    assert small.emoji is not None
    assert small.export.credits == small.emoji.credits
    assert not any("OpenMoji" in line for line in small.export.credits)
    assert any("OpenMoji" in line for line in emoji().export.credits)
    large = load_run_preset("emoji", network="dit-xs", size=64).arms[0].train.model
    assert isinstance(large, DiTConfig)
    assert (large.width, large.depth, large.mlp_ratio, large.latent_size, large.text_width) == (384, 12, 2, 16, 384)


def tiny(**options):
    """The preset of the tiny packages, with a judge of three of their emoji."""
    config = load_run_preset("emoji", styles=("noto", "twemoji"), text="words:64", **options)
    assert config.judge is not None
    judge = replace(config.judge, concepts=("banana", "cat", "ox"), scenes=64, steps=20, tested=12, width=4)
    return replace(config, judge=judge, prompts=PromptConfig(per_task=4))


def test_the_judge_never_sees_one_of_the_styles():
    for styles, held_out in (
        ((), "twemoji"),
        (("noto", "twemoji"), "twemoji"),
        (("noto", "fluent"), "fluent"),
        (("noto",), None),
    ):
        judge = load_run_preset("emoji", styles=styles).judge
        assert judge is not None
        assert judge.held_out == held_out


def test_every_stage_before_training(tmp_path, monkeypatch):
    cache_in(tmp_path / "cache", monkeypatch)
    reached = functools.partial(pytest.fail, "training")
    monkeypatch.setattr(run, "_train_arms", lambda *args: reached())
    config = tiny()
    with monkeypatch.context() as patch:
        patch.setattr(packages, "_client", lambda name: None)
        with pytest.raises(UserError, match=r"npm is not installed.*`npm pack emojibase-data"):
            run.run(tmp_path / "out", config)
    tiny_emoji(monkeypatch)  # as if put there by hand
    config = tiny()
    with pytest.raises(pytest.fail.Exception, match="training"):
        run.run(tmp_path / "out", config)
    plain, mixed = (open_encoded(tmp_path / "out" / "encoded" / f"{kind}-import") for kind in ("plain", "augmented"))
    assert (len(plain), len(mixed), plain.levels) == (10, 10, ("long", "short"))
    assert read_manifest(tmp_path / "out" / "emoji").counts == {"images": 10, "concepts": 5}
    caption = mixed.read(0, 0).caption.lower()
    assert caption.count("a drawing of") == 2
    assert caption.count(" background") == 2


def test_short_prompts_are_extended_by_the_style_colors_and_ground_of_the_captions():
    told = [
        f"A drawing of a {name}, {family}, in the {style}, in {color} on a {ground} background."
        for name, family in ((f"thing{n}", f"family{n}") for n in range(12))
        for style in ("flat style of Twemoji", "shaded style of Noto")
        for color in ("red", "green and brown")
        for ground in ("white", "blue")
    ]
    longer = extend_in_style("a fir", told, seed=0)
    assert longer.startswith("A drawing of a fir, in the ")
    assert longer.endswith(" background.")
    assert "family" not in longer


@pytest.mark.slow
def test_the_whole_path_to_a_report_that_names_the_artists(tmp_path, monkeypatch):
    cache_in(tmp_path / "cache", monkeypatch)
    tiny_emoji(monkeypatch)
    config = tiny(num_images=320)
    out = tmp_path / "out"
    few = replace(config, class_prompts=4, generate=replace(config.generate, per_prompt=1))
    page = run.run(out, few, command="tessera run emoji --text words:64")
    text = page.read_text(encoding="utf-8")
    for said in (
        "Twemoji by Twitter, Inc. and other contributors",
        "CC-BY-4.0",
        f"tessera run emoji --text words:64 --out {out} --num-images 1280",
    ):
        assert said in text
    assert "emoji: 10 images of 3 classes, cut to 32 px. " in text
    assert "text augmentation: long captions; captions: 50% long, 50% short" in text
    for said in (
        "Captions of the set",
        "Extended prompts",
        "Short prompts",
        "a style that it never saw",
    ):
        assert said in text
    prompts = [json.loads(line)["prompt"] for line in (out / run.CAPTION_PROMPTS).read_text().splitlines()]
    told = [json.loads(line) for line in (out / "emoji" / CAPTIONS).read_text().splitlines()]
    assert set(prompts) <= {row[level] for row in told for level in ("long", "short")}
    for arm in ("ta", "ta_ia"):
        settings = read_settings(out / "export" / arm)
        assert settings.credits == config.export.credits
        assert settings.captions is not None


def test_few_concepts_hold_those_of_the_judge():
    few = load_run_preset("emoji-few", styles=("noto", "fluent"))
    assert few.judge is not None
    assert few.emoji is not None
    assert set(few.emoji.concepts) >= set(few.judge.concepts)
    assert len(set(few.emoji.concepts)) == 52
    assert few.judge.held_out == "fluent"
    assert [arm.train.augment_prob for arm in few.arms] == [0.0, 0.5]
    assert few.arms[0].train.num_images == 64_000
