"""The sets that most tests of training share."""

from pathlib import Path

import pytest
import torch.distributed as dist

from tiny.training_sets import make_records, write_set


@pytest.fixture
def alone():
    """A group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "plain", make_records(37))


@pytest.fixture(scope="session")
def augmented(tmp_path_factory) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "augmented", make_records(23, seed=1))
