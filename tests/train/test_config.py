"""The configuration of a training"""

from dataclasses import replace

import pytest

from tessera.config import UserError, from_dict, to_dict
from tessera.train.algorithm1 import CaptionMix
from tessera.train.config import TrainConfig, parse_mix
from tiny.training_sets import RIN, config_of


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_images": 0}, "num_images"),
        ({"num_images": 100}, "num_images: 100 is not a multiple of batch_size 8; use 96 or 104"),
        ({"batch_size": 256}, "num_images: 160 is not a multiple of batch_size 256; use 256"),
        ({"augment_min_t": 1.1}, "augment_min_t"),
        ({"augment_min_t": "image"}, r"augment_min_t is 'image'; give a number in \[0, 1\], recipe or pattern"),
        ({"augment_max_t": 0.3}, r"augment_max_t: no t is above augment_min_t 0\.4 and up to 0\.3"),
        ({"seam_margin": 0}, "seam_margin"),
        ({"condition_noise": -1.0}, "condition_noise"),
        ({"sentence_drop_prob": 1.1}, "sentence_drop_prob"),
        ({"augment_prob": -0.5}, "augment_prob"),
        ({"caption_drop_prob": 1.5}, "caption_drop_prob"),
        ({"self_condition_prob": 2.0}, "self_condition_prob"),
        ({"augment_start_image": -1}, "augment_start_image"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"validation_records": -1}, "validation_records"),
        ({"keep_checkpoints": 0}, "keep_checkpoints"),
        ({"keep_every_images": 0}, "keep_every_images"),
        ({"sample_every_images": 0}, "sample_every_images"),
        ({"latent_scale": (1.0, 0.0, 1.0, 1.0)}, "latent_scale"),
        ({"latent_shift": (1.0, 0.0)}, "latent_shift"),
        ({"noise_schedule": "lineer"}, "noise_schedule"),
        ({"prediction": "x"}, "prediction"),
        ({"compute": "fp16"}, "compute"),
        ({"model": replace(RIN, coherence=True)}, "model.coherence: guidance needs a token that is not trained here"),
        ({"compute": "fp8-first"}, "compute: fp8-first is for a RIN with self-conditioning"),
        ({"threads": 0}, "threads"),
        ({"log_every_images": 0}, "log_every_images"),
        ({"caption_mix": {"long": 0.7, "short": 0.2}}, "add up to 0.9, not 1; such as long=0.778,short=0.222"),
        ({"caption_mix": {"long": 1.5, "short": -0.5}}, r"caption_mix: 'long' has the probability 1\.5"),
        ({"caption_mix": {"long": 0.0}}, "add up to 0, not 1; such as long=1"),
        ({"caption_mix_start_image": 8}, "caption_mix_start_image: needs a caption_mix"),
        ({"caption_mix": {"long": 1}, "caption_mix_start_image": -8}, "caption_mix_start_image"),
    ],
)
def test_fields_out_of_range_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        config_of(**changes)


def test_a_mix_of_captions_and_where_it_begins():
    config = config_of(caption_mix={"tags": 0.25, "long": 0.75}, caption_mix_start_image=80)
    assert config.mix == CaptionMix(levels=("tags", "long"), weights=(0.25, 0.75), start=80)
    assert config_of().mix is None
    assert from_dict(TrainConfig, to_dict(config)) == config


def test_a_mix_in_words():
    assert parse_mix("long=0.7, short=0.3") == {"long": 0.7, "short": 0.3}
    for wrong in ("long", "long=", "long=0.7;short=0.3", ""):
        with pytest.raises(UserError, match="is no mix of captions; give levels and probabilities"):
            parse_mix(wrong)
    with pytest.raises(UserError, match=r"'long=0.5,long=0.5' names a level twice; give each level once"):
        parse_mix("long=0.5,long=0.5")
