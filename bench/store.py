"""Random reads of the encoded store, by ratio: python bench/store.py [--records 4096] [--reads 4000]

Records of the paper's size (180 tokens of width 2048 in int8, latents 4 x 32 x 32) are written to a temporary directory
and read in random order, warm: one record of the store, against copying the same bytes with numpy out of a mapped file,
and against `ds[i]` of `datasets` on the same files. The three take turns in one run; medians. About 0.4 MB a record.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from tessera.encoded.record import GROUP, EncodedRecord
from tessera.encoded.store import open_encoded, write_encoded

TOKENS, WIDTH, LATENT = 180, 2048, (4, 32, 32)
ROUNDS = 9


def records(count: int):
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (TOKENS + 64, WIDTH), dtype=np.int8)
    latents = rng.standard_normal((2, *LATENT)).astype(np.float16)
    for number in range(count):
        yield EncodedRecord(
            key=f"class/{number:06d}",
            class_name="class",
            caption="A long description of an image. " * 24,
            text_codes=np.roll(codes, number, axis=0)[:TOKENS],
            text_scale=np.full((TOKENS, WIDTH // GROUP), 0.01, np.float16),
            latent_mean=latents[0],
            latent_std=latents[1],
        )


def seconds_each(read: Callable[[int], object], order: Sequence[int]) -> float:
    start = time.perf_counter()
    for index in order:
        read(index)
    return (time.perf_counter() - start) / len(order)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=int, default=4096)
    parser.add_argument("--reads", type=int, default=4000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        layout = {"latent_shape": LATENT, "text_width": WIDTH}
        paths = write_encoded(Path(folder), records(options.records), **layout)
        store = open_encoded(Path(folder))
        size = TOKENS * (WIDTH + 2 * WIDTH // GROUP) + 2 * 2 * int(np.prod(LATENT))
        maps = [np.memmap(path, np.uint8, "r") for path in paths]
        readers: dict[str, Callable[[int], object]] = {
            "copy": lambda i: np.array(maps[i // 2048][(i % 2048) * size : (i % 2048 + 1) * size]),
            "store": store.__getitem__,
        }
        try:
            import datasets

            datasets.disable_progress_bars()
            files = {"data_files": [str(path) for path in paths], "cache_dir": f"{folder}/cache"}
            opened = datasets.load_dataset("arrow", split="train", **files).with_format("numpy")
            readers["datasets"] = lambda i: opened[i]
        except ImportError:
            print("datasets is not installed: no comparison with it")
        rng = np.random.default_rng(1)
        times: dict[str, list[float]] = {name: [] for name in readers}
        for name, read in readers.items():  # warm
            seconds_each(read, range(0, options.records, 1 if name != "datasets" else 16))
        for _ in range(ROUNDS):
            order = rng.integers(0, options.records, options.reads // ROUNDS).tolist()
            for name, read in readers.items():
                times[name].append(seconds_each(read, order if name != "datasets" else order[:50]))
        found = {name: median(values) for name, values in times.items()}
        print(f"a record: {size / 1e6:.3f} MB; " + ", ".join(f"{n} {s * 1e6:.0f} us" for n, s in found.items()))
        print(f"store / copying the bytes: {found['store'] / found['copy']:.2f} (at most 1.5)")
        if "datasets" in found:
            print(f"datasets / store: {found['datasets'] / found['store']:.1f} (at least 1.5)")


if __name__ == "__main__":
    main()
