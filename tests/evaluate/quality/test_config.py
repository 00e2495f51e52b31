"""Options of `evaluate quality`."""

import pytest

from tessera.config import UserError
from tessera.evaluate.quality.config import QualityConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [("metrics", ("fidd",)), ("metrics", ()), ("prdc", ("papr",)), ("batch_size", 0), ("resamples", 9), ("seed", -1)],
)
def test_bad_settings_name_the_field(field, value):
    with pytest.raises(UserError, match=field):
        QualityConfig(**{field: value})
