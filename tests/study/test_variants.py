"""The runs that studies vary."""

from tessera.config import compare, to_dict
from tessera.presets.miniature import miniature
from tessera.study.design import SCORES
from tessera.study.variants import aio, base, family, first, today, with_ia


def test_today_is_the_preset_at_another_budget():
    changed = {path for path, *_ in compare(to_dict(miniature().arms[0].train), to_dict(today(44_000).arms[0].train))}
    assert changed == {
        "num_images",
        "model.conv_stem",
        "caption_mix_start_image",
        "checkpoint_every_images",
        "keep_every_images",
        "optim.warmup_images",
        "optim.cooldown_images",
    }
    assert today(44_000).arms[0].train.caption_mix_start_image == 30_016


def test_the_first_form_has_long_captions_alone():
    (arm,) = base().arms
    assert (arm.train.caption_mix, arm.train.augment_min_t, arm.train.optim.decay) == ({}, 0.4, "cosine")
    assert arm.train.model.text_window == 1


def test_ia_begins_after_a_quarter_unless_said_otherwise():
    assert with_ia(base()).arms[0].train.augment_start_image == 6_000
    assert with_ia(base(48_000)).arms[0].train.augment_start_image == 12_000
    assert with_ia(base(), start=0).arms[0].train.augment_start_image == 0


def test_a_family_is_chained():
    rows = family(base(), "x_")
    assert [(row.name, row.against) for row in rows] == [("x_aio", None), ("x_ta", "x_aio"), ("x_ta_ia", "x_ta")]
    assert rows[0].config == aio(base())


def test_first_keeps_every_measure_once():
    assert first("overall")[0] == "overall"
    assert sorted(first("overall")) == sorted(SCORES)
