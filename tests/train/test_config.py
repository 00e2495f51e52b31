"""The configuration of a training"""

import pytest

from tessera.config import UserError
from tiny.training_sets import config_of


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_images": 0}, "num_images"),
        ({"num_images": 100}, "num_images: 100 is not a multiple of batch_size 8; use 96 or 104"),
        ({"batch_size": 256}, "num_images: 160 is not a multiple of batch_size 256; use 256"),
        ({"device_batch_size": 3}, "device_batch_size"),
        ({"augment_min_t": 1.1}, "augment_min_t"),
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
        ({"threads": 0}, "threads"),
        ({"log_every_images": 0}, "log_every_images"),
    ],
)
def test_fields_out_of_range_are_named(changes, named):
    with pytest.raises(UserError, match=named):
        config_of(**changes)
