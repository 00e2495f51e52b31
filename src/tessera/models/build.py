"""From a config to its network."""

from tessera.models.dit import DiT, DiTConfig
from tessera.models.rin import RIN, RINConfig


def build_network(config: DiTConfig | RINConfig) -> DiT | RIN:
    """The network of a config, with its starting values (drawn from torch's global generator)."""
    return DiT(config) if isinstance(config, DiTConfig) else RIN(config)
