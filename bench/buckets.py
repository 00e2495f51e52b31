"""Training on buckets of aspect ratios against squares of the same area: python bench/buckets.py [--blocks 2]

DiT-I S/2 at 256 px with few blocks on a CPU, in steps of 64 images with all that a step does, their records read on
the way: of a set of squares, and of one that spreads evenly over all 13 buckets, by turns. Printed: the ratio of the
images/s by the medians, and that of the pixels/s.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from loader import records

from tessera.curate.buckets import bucket_sizes
from tessera.encoded.record import pack_floats
from tessera.encoded.store import EncodedStore, open_encoded, write_encoded
from tessera.presets.small_sets import dit_i_s
from tessera.stages import open_stage
from tessera.train.loader import passes
from tessera.train.loop import Trainer

RECORDS, BATCH, STEPS, TOKENS = 512, 64, 5, 60


def make_set(folder: Path, shapes: list[tuple[int, int, int]], width: int) -> EncodedStore:
    """Write records with latents of these shapes by turns; of one shape without buckets."""
    stage = open_stage(folder, stage="encode", config={})
    made = []
    for number, record in enumerate(records(RECORDS, 0, TOKENS, width, (4, 32, 32))):
        mean, std = (np.resize(part, shapes[number % len(shapes)]) for part in (record.latent_mean, record.latent_std))
        made.append(replace(record, latent_mean=mean, latent_std=std))
    several = tuple(shapes) if len(shapes) > 1 else ()
    write_encoded(folder, made, latent_shape=(4, 32, 32), text_width=width, shapes=several)
    stage.finish({"records": RECORDS}, facts={"null_condition": pack_floats(np.zeros((1, width), np.float32))})
    return open_encoded(folder)


def seconds(trainer: Trainer) -> float:
    """Return the processor seconds of a step from where the trainer is."""
    start = trainer.state.num_images
    numbers = passes(
        start, BATCH, start + BATCH, trainer.samples_per_pass, trainer.reader.lengths, trainer.reader.buckets
    )
    began = time.process_time()
    trainer.stepper.step([trainer.reader(some) for some in numbers])
    trainer.stepper.catch_up(0)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=2)
    blocks = parser.parse_args().blocks
    preset = dit_i_s()
    config = replace(
        preset,
        model=replace(preset.model, depth=blocks),
        num_images=10**4 * BATCH,
        batch_size=BATCH,
        augment_prob=0.0,
        validation_records=0,
        sample_every_images=None,
        compute="fp32",
    )
    shapes = [(4, height // 8, width // 8) for width, height in bucket_sizes(256)]
    with tempfile.TemporaryDirectory() as temporary:
        folder, width, trainers = Path(temporary), config.model.text_width, {}
        for name, some in (("squares", shapes[:1]), ("buckets", shapes)):
            store = make_set(folder / name, some, width)
            trainers[name] = Trainer(folder / name, store, None, config, torch.device("cpu"))
        took = {name: [] for name in trainers}
        for _ in range(STEPS):
            for name, trainer in trainers.items():
                took[name].append(seconds(trainer))
    area = np.mean([height * wide for _, height, wide in shapes]) / 1024
    squares, buckets = (float(np.median(took[name])) for name in ("squares", "buckets"))
    print(
        f"{len(shapes)} buckets of {area:.3f} x the square's area on average: {squares / buckets:.3f} x the images/s of"
        f" squares, {area * squares / buckets:.3f} x the pixels/s ({BATCH / squares:.2f} and {BATCH / buckets:.2f})"
    )


if __name__ == "__main__":
    main()
