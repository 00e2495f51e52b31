"""One step of Muon on the miniature's DiT, ours against torch.optim.Muon: python bench/muon.py [--rounds 100]

One thread, processor time, the best of many by turns: the matrices of the blocks alone, with the settings of the
preset `miniature` (bf16, momentum 0.95); and the whole training step around it (loss, backward, Muon and AdamW, EMA).
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from loader import make_set

from tessera.encoded.store import open_encoded
from tessera.presets.miniature import miniature
from tessera.randomness import philox
from tessera.train.loop import Trainer
from tessera.train.optim.muon import Muon

TOKENS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    config = replace(miniature().arms[0].train, num_images=32 * 10**6)
    model = config.model
    with tempfile.TemporaryDirectory() as temporary:
        shape = (model.latent_channels, model.latent_size, model.latent_size)
        made = make_set(Path(temporary) / "set", 64, 0, False, tokens=TOKENS, width=model.text_width, shape=shape)
        store = open_encoded(made)
        trainer = Trainer(Path(temporary) / "run", store, None, config, torch.device("cpu"))
        loaded = [trainer.reader(range(config.batch_size))]
        matrices = list(trainer.state.optimizer.optimizers[0].param_groups[0]["params"])

        def copies() -> list[torch.nn.Parameter]:
            found = [torch.nn.Parameter(p.detach().clone()) for p in matrices]
            for i, p in enumerate(found):
                p.grad = torch.from_numpy(philox(1, "gradient", i).standard_normal(p.shape, dtype=np.float32))
            return found

        ours, theirs = Muon(copies()), torch.optim.Muon(copies(), lr=0.01, weight_decay=0.0, momentum=0.95)
        ours.param_groups[0]["lr"] = 0.01
        steps: dict[str, Callable[[], object]] = {
            "ours": ours.step,
            "torch": theirs.step,
            "whole": lambda: trainer.stepper.step(loaded),
        }
        best = dict.fromkeys(steps, math.inf)
        for _ in range(rounds):
            for name, step in steps.items():
                began = time.process_time()
                step()
                best[name] = min(best[name], time.process_time() - began)
    numbers = sum(p.numel() for p in matrices)
    print(
        f"{len(matrices)} matrices, {numbers / 1e6:.2f}M weights: ours {1e3 * best['ours']:.1f} ms a step, "
        f"torch.optim.Muon {1e3 * best['torch']:.1f} ms; a whole training step of {config.batch_size} "
        f"{1e3 * best['whole']:.0f} ms, of which the difference is {(best['torch'] - best['ours']) / best['whole']:.1%}"
    )


if __name__ == "__main__":
    main()
