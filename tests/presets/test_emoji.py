"""The preset of emoji."""

import functools

import pytest

from tessera import packages, run
from tessera.config import UserError
from tessera.encoded.store import open_encoded
from tessera.models.rin import RINConfig
from tessera.presets.emoji import emoji
from tessera.presets.lookup import load_run_preset
from tessera.prompts.style import extend_in_style
from tessera.stages import read_manifest
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


def test_every_stage_before_training(tmp_path, monkeypatch):
    cache_in(tmp_path / "cache", monkeypatch)
    reached = functools.partial(pytest.fail, "training")
    monkeypatch.setattr(run, "_train_arms", lambda *args: reached())
    config = load_run_preset("emoji", styles=("noto", "twemoji"), text="words:64")
    with monkeypatch.context() as patch:
        patch.setattr(packages, "_client", lambda name: None)
        with pytest.raises(UserError, match=r"npm is not installed.*`npm pack emojibase-data"):
            run.run(tmp_path / "out", config)
    tiny_emoji(monkeypatch)  # as if put there by hand
    config = load_run_preset("emoji", styles=("noto", "twemoji"), text="words:64")
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
