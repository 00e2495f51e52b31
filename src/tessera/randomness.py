"""Addressed randomness: a stream is named by (seed, purpose, counter) and does not depend on what else was drawn.

So any image or training sample can be made again alone, in any order, on any number of processes.
"""

import functools
import hashlib
from typing import TYPE_CHECKING

from tessera.config import UserError

if TYPE_CHECKING:
    import numpy as np


def philox(seed: int, purpose: str, counter: int = 0) -> "np.random.Generator":
    """Return the random generator at the address (seed, purpose, counter), all in [0, 2**64).

    Philox4x64 (Salmon et al. 2011): the key is (seed, hash of purpose), `counter` the third of the four counter words.
    So a stream has 2**128 blocks of its own, and no two addresses overlap.
    """
    import numpy as np  # here, so that the command's help answers without it

    if not (0 <= seed < 2**64 and 0 <= counter < 2**64):
        raise UserError(f"seed and counter must be in [0, 2**64), not {seed} and {counter}")
    key = np.array([seed, _purpose_key(purpose)], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, counter, 0], dtype=np.uint64)))


@functools.lru_cache(maxsize=1024)
def _purpose_key(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


def address(*parts: str | int) -> int:
    """Return a stable integer in [0, 2**63) for strings and integers, e.g. the seed of one image: (seed, key)."""
    digest = hashlib.sha256()
    for part in parts:
        # Type and length go in too, so that ("a", "b"), ("ab",) and (1,), ("1",) are different addresses.
        kind, data = ("s", part.encode()) if isinstance(part, str) else ("i", str(int(part)).encode())
        digest.update(f"{kind}{len(data)}:".encode() + data)
    return int.from_bytes(digest.digest()[:8], "little") >> 1
