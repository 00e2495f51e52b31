"""Time of a set that grew by 100 images, to making it anew: `python bench/grown.py [IMAGES [SIDE]]` (2000, 256).

Collect crops JPEG files (of 500 x 375 where SIDE is 256) to SIDE px; caption asks a class of the user's own, which
answers at once; encode stores them with `pixel-unshuffle:4` and `words:64`, of which nothing is slow: both are the
worst case, as networks are what takes the time at full size. Time is that of the processor. Prints seconds of the set
anew and grown, and their ratio; then what an image takes by networks of real classes and sizes with random weights on
one thread (Stable Diffusion's VAE at 256 px and the encoder of T5 base on 60 tokens; BLIP base for 30 words), and the
ratio with those.
"""

import io
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TESSERA_QUIET": "1"}

import torch
from compose import photograph
from PIL import Image

from tessera import workers
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.encode import EncodeConfig, encode

torch.set_num_threads(1)
workers.usable_cores = lambda: 1  # or the time of processes that end later is missed

ADDED = 100

CAPTIONER = """
class Named:
    def describe(self, requests):
        return [f"A photograph of a {each.class_name}, number {each.key}." for each in requests]
"""


def seconds(work: Callable[[], object]) -> float:
    """Return the processor's time for `work`, in this process and in those that it starts."""

    def now() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    begin = now()
    work()
    return now() - begin


def scaled(data: bytes, factor: float) -> bytes:
    """Return a JPEG file of the image at another size."""
    image, file = Image.open(io.BytesIO(data)), io.BytesIO()
    image.resize((round(image.width * factor), round(image.height * factor))).save(file, "JPEG", quality=97)
    return file.getvalue()


def main(count: int = 2000, side: int = 256) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = folder / "photos"
        files = [scaled(photograph(seed), side / 256) for seed in range(32)]

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
                    lambda: collect(images, CollectConfig(source="photos", size=side), photos, reuse=old("images"))
                ),
                "caption": seconds(lambda: caption(out / "captions", images, captions, reuse=old("captions"))),
                "encode": seconds(
                    lambda: encode(out / "encoded", images, out / "captions", EncodeConfig(), reuse=old("encoded"))
                ),
            }

        add(range(count))
        anew = make(folder / "old", None)
        add(range(count, count + ADDED))
        grown, slow = make(folder / "grown", folder / "old"), networks()
        for stage, whole in anew.items():
            print(f"{stage}: {whole:.1f} s anew, {grown[stage]:.2f} s grown, ratio {grown[stage] / whole:.4f}")
            if each := slow.get(stage):
                ratio = (grown[stage] + ADDED * each) / (whole + count * each)
                print(f"  with networks that take {each:.2f} s an image: {ratio:.5f}")


def networks() -> dict[str, float]:
    """Return the processor's seconds an image of each stage that has networks, the median of three."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import BlipConfig, BlipForConditionalGeneration, T5Config, T5EncoderModel

    sizes: Any = (128, 256, 512, 512)
    down: Any = ("DownEncoderBlock2D",) * 4
    up: Any = ("UpDecoderBlock2D",) * 4
    vae = AutoencoderKL(
        down_block_types=down,
        up_block_types=up,
        block_out_channels=sizes,
        layers_per_block=2,
        latent_channels=4,
    )
    text = T5EncoderModel(T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12))
    blip = BlipForConditionalGeneration(BlipConfig()).eval()
    pixels, tokens = torch.zeros(1, 3, 256, 256), torch.zeros(1, 60, dtype=torch.long)

    def median(work: Callable[[], object]) -> float:
        return sorted(seconds(work) for _ in range(3))[1]

    with torch.inference_mode():
        encode = median(lambda: vae.encode(pixels)) + median(lambda: text(tokens))
        told = {"pixel_values": torch.zeros(1, 3, 384, 384), "min_new_tokens": 30, "max_new_tokens": 30}
        return {"caption": median(lambda: blip.generate(**told)), "encode": encode}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
