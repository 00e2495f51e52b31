import pytest

from tessera.curate.augment import AugmentConfig, augment


@pytest.fixture(scope="module")
def recipe(images, tmp_path_factory):
    """A CutMix recipe of `images`, both halves centered."""
    out = tmp_path_factory.mktemp("recipe") / "recipe"
    augment(out, images, AugmentConfig(half_view="centre"))
    return out
