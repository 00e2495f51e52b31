"""The loader at the size of the paper's records: python bench/loader.py [--records 20000] [--folder DIR]

Makes a plain and an augmented set of so many records each (180 text tokens of width 2048 in int8, latents 4 x 32 x 32,
0.4 MB a record; 20,000 records are 8 GB a set), reads batches by `Reader` and `read_ahead` as training does, and says:
how many cores 800 images/s take (processor time of the whole process, threads and all), how fast it could go, how many
bytes a sample costs, and the same for reading a record of both sets for each sample, as the published code does. Then,
in turns, one caption an image against one of three drawn (of the same lengths), a ratio. What the device does (text is
unpacked there) is not in it. `--folder` keeps the sets for another time; they are made in
parts of 2048, `--linked` makes every file but the first a link to it, which needs a tenth of the disk.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from tessera.encoded.record import GROUP, LONG, EncodedRecord, EncodedText, pack_floats, quantize
from tessera.encoded.shard import write_shard
from tessera.encoded.store import open_encoded, shard_name
from tessera.randomness import philox
from tessera.stages import open_stage
from tessera.train.algorithm1 import Algorithm1, CaptionMix, Normalization
from tessera.train.dataset_checks import level_numbers
from tessera.train.loader import Reader, passes, read_ahead

TOKENS, WIDTH, SHAPE = 180, 2048, (4, 32, 32)
SHARD = 2048
BATCH = 128
RATE = 800  # images/s of one GPU


def records(
    count: int, seed: int, tokens: int, width: int, shape: tuple[int, ...], fewest: int | None = None
) -> Iterator[EncodedRecord]:
    rng = philox(seed, "bench/loader")
    noise = rng.integers(-127, 128, (4 * tokens, width), dtype=np.int8)
    latents = rng.standard_normal((64, *shape)).astype(np.float16)
    for i in range(count):
        start = int(rng.integers(0, 3 * tokens))
        length = tokens if fewest is None else int(rng.integers(fewest, tokens + 1))
        yield EncodedRecord(
            key=f"class/{seed}-{i}",
            class_name="class",
            caption="a caption of a hundred and thirty words " * 18,
            text_codes=noise[start : start + length],
            text_scale=np.full((length, -(-width // GROUP)), 0.01, np.float16),
            latent_mean=latents[i % 64],
            latent_std=np.abs(latents[(i + 7) % 64]),
        )


def with_levels(record: EncodedRecord, levels: tuple[str, ...]) -> EncodedRecord:
    """Return the record with a caption as long as its own at each further level."""
    return replace(
        record,
        more=tuple(
            EncodedText(f"{level} {record.caption}", record.text_codes, record.text_scale) for level in levels[1:]
        ),
    )


def make_set(
    folder: Path,
    count: int,
    seed: int,
    linked: bool,
    *,
    tokens: int = TOKENS,
    width: int = WIDTH,
    shape: tuple[int, ...] = SHAPE,
    fewest: int | None = None,
    levels: tuple[str, ...] = (LONG,),
    features: tuple[int, int] = (0, 0),
) -> Path:
    """Write an encoded set of random records of `tokens` text tokens each, or of `fewest` to `tokens`, at each of the
    levels. features: tokens and width of those of an image."""
    stage = open_stage(folder, stage="encode", config={"records": count, "seed": seed, "linked": linked})
    if stage.done:
        return folder
    for number, start in enumerate(range(0, count, SHARD)):
        size, path = min(SHARD, count - start), folder / shard_name(number)
        if linked and number and size == SHARD:
            if not path.exists():
                os.link(folder / shard_name(0), path)
        else:
            made = records(size, seed + 1000 * number, tokens, width, shape, fewest)
            made = (with_levels(record, levels) for record in made) if levels != (LONG,) else made
            if features[0]:
                codes, scale = quantize(philox(seed, "features").standard_normal(features))
                made = (replace(record, features=codes, features_scale=scale) for record in made)
            write_shard(path, made, latent_shape=shape, text_width=width, levels=levels, features=features)
    facts = {"null_condition": pack_floats(np.zeros((1, width), np.float32)), "image_size": 8 * shape[1]}
    facts |= dict.fromkeys(("latent_codec", "text_encoder"), "random")
    stage.finish({"records": count}, facts=facts)
    return folder


def size_of(record: EncodedRecord) -> int:
    arrays = (record.text_codes, record.text_scale, record.latent_mean, record.latent_std)
    return sum(a.nbytes for a in arrays if a is not None) + len(record.caption.encode())


def measure(read, images: int) -> tuple[float, float]:
    """Return the processor seconds and the seconds per image."""
    with read_ahead(read, passes(0, BATCH, images + 8 * BATCH, BATCH)) as loader:
        for _ in range(8):
            next(loader)
        cpu, began = time.process_time(), time.perf_counter()
        for _ in range(images // BATCH):
            next(loader)
        return (time.process_time() - cpu) / images, (time.perf_counter() - began) / images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--linked", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        sets = [make_set(folder / n, arguments.records, i, arguments.linked) for i, n in enumerate(("plain", "mixed"))]
        plain, augmented = map(open_encoded, sets)
        algorithm = Algorithm1(plain, augmented, 0.4, 0.5, 0, "linear", caption_drop_prob=0.1)
        reader = Reader(algorithm, plain, augmented, Normalization(scale=(0.18215,)))
        one = np.mean([size_of(plain[i]) for i in range(64)])

        def read_both(numbers):
            draws = algorithm.draws(numbers)
            for from_augmented, index in zip(draws.augmented, draws.index):
                _ = (plain if from_augmented else augmented)[int(index) % arguments.records]
            return reader(numbers)

        cases = {"the one chosen record": (reader, one), "a record of each set": (read_both, 2 * one)}
        for name, (read, size) in cases.items():
            before = plain.records_read + augmented.records_read
            cpu, wall = measure(read, arguments.images)
            count = (plain.records_read + augmented.records_read - before) / (arguments.images + 8 * BATCH)
            print(
                f"{name}: {size / 1e6:.3f} MB and {count:.2f} records read a sample; {1e6 * cpu:.0f} us of processor "
                f"time an image, so {RATE} images/s take {RATE * cpu:.2f} cores; {1 / wall:.0f} images/s at most here",
                flush=True,
            )
        compare_levels(folder, min(arguments.records, SHARD), arguments.images)


def compare_levels(folder: Path, count: int, images: int) -> None:
    """Print the processor time and bytes a sample of one drawn of three captions, over those of the only one."""
    levels, readers, sizes = (LONG, "medium", "short"), [], []
    for name, has in (("one", levels[:1]), ("three", levels)):
        store = open_encoded(make_set(folder / name, count, 2, False, levels=has))
        weights = tuple(1 / len(has) for _ in has)
        mix = CaptionMix(levels=has, weights=weights)
        algorithm = Algorithm1(store, None, 0.4, 0.0, 0, "linear", caption_mix=mix)
        numbers = level_numbers(mix, store)
        readers.append(Reader(algorithm, store, None, Normalization(scale=(0.18215,)), levels=(numbers, (0,))))
        draws = algorithm.draws(np.arange(64))
        drawn = zip(draws.index.tolist(), draws.level.tolist())
        sizes.append(sum(size_of(store.read(index, numbers[level])) for index, level in drawn))
    ratios = [three / one for one, three in ([measure(read, images)[0] for read in readers] for _ in range(5))]
    print(
        f"one of three captions drawn, over one caption: {np.median(ratios):.3f} x the processor time (5 turns:"
        f" {min(ratios):.3f} to {max(ratios):.3f}), {sizes[1] / sizes[0]:.3f} x the bytes a sample"
    )


if __name__ == "__main__":
    main()
