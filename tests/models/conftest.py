"""The networks and the golden file that several test files share."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from tiny.networks import CONFIGS, make_network


@pytest.fixture(params=list(CONFIGS))
def network(request):
    return make_network(CONFIGS[request.param])


@pytest.fixture(scope="session")
def golden():
    """Tensors of the published network class (tiny, random weights) and its constructor arguments."""
    with safe_open(Path(__file__).parent.parent / "golden" / "cad_i_tiny.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["config"])
