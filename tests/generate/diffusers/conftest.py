import pytest

pytest.importorskip("diffusers")

import tessera
from tessera.generate.pipeline import sample_noise
from tiny.pipelines import ADDRESSES, NETWORKS, save_network


@pytest.fixture(scope="module", params=NETWORKS)
def export(request, tmp_path_factory):
    return save_network(tmp_path_factory.mktemp(request.param) / "export", request.param)


@pytest.fixture(scope="module")
def loaded(export):
    pipe = tessera.load_pipeline(export, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded):
    """Undoes what a test left behind."""
    yield loaded
    loaded._interrupt = False


@pytest.fixture(scope="module")
def noise():
    return sample_noise((48, 4, 4), ADDRESSES, 5)
