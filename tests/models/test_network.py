"""What both networks share: tables, a network of the meta device, configurations, and latents that do not fit."""

import pytest
import torch

from tessera.config import UserError, from_dict, to_dict
from tessera.models.build import build_network
from tessera.models.dit import DiTConfig
from tessera.models.rin import RIN, RINConfig
from tiny.networks import CONFIGS, make_inputs, make_network


def test_tables_are_named(network):
    names = {name.split(".")[-1] for name, _ in network.named_parameters()} & set(network.TABLES)
    expected = {"modulation_tables", "out_table"}
    if isinstance(network, RIN):
        expected = {"latent_tokens", "interface_positions", "registers"}
        expected |= {"coherence_position"} if network.config.coherence else set()
    assert names == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_meta_network_becomes_the_same_one(name):
    network = make_network(CONFIGS[name])
    with torch.device("meta"):
        empty = build_network(CONFIGS[name])
    empty.load_state_dict(network.state_dict(), assign=True)
    empty.reset_buffers()
    x, alpha_bar, text = make_inputs()
    with torch.no_grad():
        assert torch.equal(empty(x, alpha_bar, text)[0], network(x, alpha_bar, text)[0])


@pytest.mark.parametrize("name", CONFIGS)
def test_config_survives_json(name):
    config = CONFIGS[name]
    assert from_dict(type(config), to_dict(config)) == config


@pytest.mark.parametrize("shape", [(3, 4, 8, 8), (3, 3, 8, 9), (3, 3, 8, 4), (3, 3, 16, 16)])
def test_wrong_latents_are_named(network, shape):
    _, alpha_bar, text = make_inputs()
    if network.ANY_SIZE and shape[1:] in ((3, 8, 4), (3, 16, 16)):
        assert network(torch.zeros(shape), alpha_bar, text)[0].shape == shape
        return
    with pytest.raises(ValueError, match=r"\(B, 3, 8, 8\)"):
        network(torch.zeros(shape), alpha_bar, text)


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (DiTConfig, {"width": 10, "heads": 5}),
        (DiTConfig, {"width": 64, "heads": 5}),
        (DiTConfig, {"latent_size": 31}),
        (DiTConfig, {"depth": 0}),
        (DiTConfig, {"layer_scale_init": 0.0}),
        (DiTConfig, {"refiner_depth": -1}),
        (DiTConfig, {"text_window": 4}),
        (RINConfig, {"text_window": 0}),
        (RINConfig, {"latent_size": 31}),
        (RINConfig, {"latent_width": 1020}),
        (RINConfig, {"compute_heads": 3}),
        (RINConfig, {"interface_width": 250}),
        (RINConfig, {"text_registers": 0}),
        (RINConfig, {"table_init_std": 0.0}),
    ],
)
def test_impossible_configs_name_the_field(config, change):
    field = "|".join([*change, "latent_width"])
    with pytest.raises(UserError, match=rf"^({field}|read_write_width) is") as error:
        config(**change)
    assert "\n" not in str(error.value)
