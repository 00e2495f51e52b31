"""Work on shards for the tests of engines, in a module that worker processes import in no time."""

import os
import signal
import time
from pathlib import Path

from tessera.config import UserError


def prepare(folder: Path):
    """The work: writes a file named after the shard, and says which process did."""
    prepared = str(os.getpid())

    def work(shard: int) -> tuple[int, str, int]:
        if shard < 0:
            raise UserError(f"shard {shard} is bad")
        (folder / str(shard)).write_text("done")
        return shard, prepared, os.getpid()

    return work


def dying(folder: Path):
    """Kills its own process at the first try of shard 3."""

    def work(shard: int) -> int:
        if shard == 3 and not (folder / "died").exists():
            (folder / "died").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05)
        return shard

    return work


def slow(folder: Path):
    """Sleeps for two minutes, and says in which process."""

    def work(shard: int) -> int:
        (folder / f"pid-{os.getpid()}").write_text("")
        time.sleep(120)
        return shard

    return work
