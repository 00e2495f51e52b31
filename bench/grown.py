"""Time of a set that grew by 0.1%, to that of making it anew: `python bench/grown.py [IMAGES]` (2000).

Collect crops JPEG files of 500 x 375 to 256 px; caption asks a class of the user's own, which answers at once; encode
stores them with `pixel-unshuffle:4` and `words:64`, of which nothing is slow: both are the worst case, as networks are
what takes the time at full size. Time is that of the processor. Prints
milliseconds an image, made anew and grown, and their ratio.
"""

import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "TESSERA_QUIET": "1"}

from compose import photograph

from tessera import workers
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.encode import EncodeConfig, encode

workers.usable_cores = lambda: 1  # or the time of processes that end later is missed

CAPTIONER = """
class Named:
    def describe(self, requests):
        return [f"A photograph of a {each.class_name}, number {each.key}." for each in requests]
"""


def seconds(work: Callable[[], None]) -> float:
    """Return the processor's time for `work`, in this process and in those that it starts."""

    def now() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    begin = now()
    work()
    return now() - begin


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = folder / "photos"
        files = [photograph(seed) for seed in range(32)]

        def add(numbers: range) -> None:
            for number in numbers:
                path = photos / f"class {number % 10}" / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(files[number % len(files)])

        (folder / "named.py").write_text(CAPTIONER)
        captions = CaptionConfig(captioner=f"{folder / 'named.py'}:Named")

        def make(out: Path, before: Path | None) -> dict[str, float]:
            images = out / "images"

            def old(stage: str) -> Path | None:
                return before / stage if before is not None else None

            return {
                "collect": seconds(
                    lambda: collect(images, CollectConfig(source="photos", size=256), photos, reuse=old("images"))
                ),
                "caption": seconds(lambda: caption(out / "captions", images, captions, reuse=old("captions"))),
                "encode": seconds(
                    lambda: encode(out / "encoded", images, out / "captions", EncodeConfig(), reuse=old("encoded"))
                ),
            }

        add(range(count))
        make(folder / "old", None)
        add(range(count, count + max(count // 1000, 1)))
        anew, grown = make(folder / "anew", None), make(folder / "grown", folder / "old")
        for stage, all_of_it in anew.items():
            each = (1000 * taken / count for taken in (all_of_it, grown[stage]))
            print("{}: {:.3f} ms anew, {:.3f} ms grown, ratio {:.4f}".format(stage, *each, grown[stage] / all_of_it))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
