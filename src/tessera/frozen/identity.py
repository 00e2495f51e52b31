"""What a pretrained network is called in protocols: a short name, and the hash of its weights."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tessera.config import UserError
from tessera.files import sha256_file


@dataclass(frozen=True)
class Identity:
    """A pretrained network, wherever its files are."""

    name: str
    """Its name on the Hub, or its folder's."""
    sha256: str
    """Of its safetensors file; of their names and hashes, if there are several."""


def identify(model: str) -> Identity:
    """The identity of a folder's or of the Hub's model; UserError if it has no safetensors or cannot be had."""
    from transformers.utils.hub import cached_file

    try:
        config = cached_file(model, "config.json")
    except (OSError, ValueError) as error:
        raise UserError(f"{model}: is no model of a folder or of the Hub ({str(error).splitlines()[0]})") from error
    assert isinstance(config, str)
    files = sorted(Path(config).parent.glob("*.safetensors"))
    if not files:
        raise UserError(f"{model}: has no .safetensors file; convert its weights to safetensors")
    hashes = {path.name: sha256_file(path) for path in files}
    lines = "".join(f"{name} {digest}\n" for name, digest in hashes.items())
    whole = next(iter(hashes.values())) if len(hashes) == 1 else hashlib.sha256(lines.encode()).hexdigest()
    return Identity(Path(model).name if Path(model).is_dir() else model, whole)
