"""Share of the time in which encoding keeps a device at work, and captions a server: python bench/throughput.py

Stubs in place of both: a device that sleeps for each image and text, as long as an H100 is expected to compute, and a
server of fixed capacity whose every answer takes the same time. Printed: the share of the time in which the device
works, and the share of the server's capacity that is used.
"""

import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from tessera.curate import encode as encoding
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.pretrained.vae import AS_IT_IS

IMAGES, SIDE = 2048, 256
TEXT, IMAGE = 0.006, 0.002
"""Seconds of the device for a text and for an image."""
TOKENS, WIDTH = 180, 2048
CAPACITY, ANSWER = 32, 1.0
"""Questions that the server answers at a time, and seconds for one."""


class Device:
    """A codec and a text encoder that sleep, and count how long."""

    id, sha256, width, max_tokens, normalization = "stub", None, WIDTH, 256, AS_IT_IS
    busy = 0.0

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._codes = rng.integers(-127, 128, (TOKENS, WIDTH), dtype=np.int8)
        self._scales = np.ones((TOKENS, WIDTH // 64), np.float16)
        self.null_condition = np.zeros((1, WIDTH), np.float32)

    def _work(self, seconds: float) -> None:
        began = time.perf_counter()
        time.sleep(seconds)
        Device.busy += time.perf_counter() - began

    def latent_shape(self, size: int) -> tuple[int, int, int]:
        return 4, size // 8, size // 8  # Stable Diffusion's VAE's

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [TOKENS] * len(texts)

    def quantize(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        self._work(TEXT * len(texts))
        return [(self._codes, self._scales)] * len(texts)

    def encode(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._work(IMAGE * len(images))
        mean = np.zeros((len(images), *self.latent_shape(SIDE)), np.float32)
        return mean, mean


def make_images(folder: Path, count: int = IMAGES) -> None:
    """Write a class folder of images with the detail of photographs, and collect them as folder/images."""
    rng = np.random.default_rng(1)
    (folder / "photos" / "a").mkdir(parents=True)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).resize((SIDE, SIDE), 3)
        coarse.save(folder / "photos" / "a" / f"{number}.jpg", quality=90)
    collect(folder / "images", CollectConfig(source="photos", size=SIDE, single_class=None), folder / "photos")


def encode_share(folder: Path) -> float:
    """Return the share of the time in which the device works on the captions of `caption_share`.

    From the first shard's begin to the last one's end.
    """
    device = Device()
    encoding.load_codec = encoding.load_text_encoder = lambda *_, **__: device  # type: ignore[assignment]
    encoder, spans = encoding.ShardEncoder, []

    class Timed(encoder):
        def __call__(self, shard):
            began = time.perf_counter()
            done = super().__call__(shard)
            spans.append((began, time.perf_counter()))
            return done

    encoding.ShardEncoder = Timed
    config = encoding.EncodeConfig(latents="stub", text="stub")
    encoding.encode(folder / "encoded", folder / "images", folder / "by_server", config)
    return Device.busy / (spans[-1][1] - spans[0][0])


def caption_share(folder: Path) -> float:
    """Return the share of the server's capacity that captions use."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from tiny.chat_server import ChatServer, completion  # pyright: ignore[reportMissingImports]

    slots, answers = threading.Semaphore(CAPACITY), []

    def reply(body: dict, number: int) -> tuple[int, dict]:
        with slots:
            time.sleep(ANSWER)
            answers.append(time.perf_counter())
        return 200, completion(f"A photograph of {len(answers)} colors, which change from place to place.")

    with ChatServer(reply) as server:
        began = time.perf_counter()
        config = CaptionConfig(captioner="openai")
        caption(folder / "by_server", folder / "images", config, server=server.address, concurrency=2 * CAPACITY)
    return len(answers) * ANSWER / CAPACITY / (max(answers) - began)


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        make_images(Path(temporary))
        print(f"captions: {caption_share(Path(temporary)):.1%} of the server's capacity", flush=True)
        print(f"encode: the device works {encode_share(Path(temporary)):.1%} of the time", flush=True)


if __name__ == "__main__":
    main()
