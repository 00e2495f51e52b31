"""measure: the speed of this machine at the stages that need a GPU, on synthetic data, for `tessera plan --measure`.

Training is measured by real steps of a preset; encoding and captions with the paper's networks, where their weights lie
on this machine: nothing is fetched. Before that small networks are compared with the CPU, so that a new GPU, driver or
torch shows its faults before it is paid for.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tessera.config import UserError
from tessera.curate.caption.model import LLAVA
from tessera.devices import is_fast_in_bf16, peak_tflops, pick_device, set_threads
from tessera.diffusion.loss import diffusion_loss
from tessera.encoded.record import EncodedRecord, pack_floats, quantize
from tessera.encoded.store import EncodedStore, open_encoded, write_encoded
from tessera.hub import at_hand
from tessera.models.build import compile_blocks
from tessera.models.dit import DiTConfig
from tessera.models.rin import RINConfig
from tessera.presets.imagenet import TEXT, VAE
from tessera.pretrained.captioner.llava import LLAVA_FILES, Llava
from tessera.pretrained.captioner.prompt import MAX_NEW_TOKENS, make_question
from tessera.pretrained.text_encoders import TEXT_FILES, TextEncoder, load_text_encoder
from tessera.pretrained.vae import VAE_FILES, load_codec
from tessera.progress import progress
from tessera.randomness import philox
from tessera.records import Batch, TextEncoding
from tessera.stages import open_stage
from tessera.train.config import RuntimeOptions, TrainConfig
from tessera.train.loader import passes, read_ahead
from tessera.train.logs import peak_memory
from tessera.train.loop import Trainer
from tessera.train.state import compiles, initial_network

STEPS, WARM = 20, 3
"""Number of steps that are timed, and of those before them, in which programs are compiled."""
RECORDS = 64
"""Number of synthetic records, which the steps read again and again."""
CPU_SAMPLES, CPU_IMAGES, CPU_TOKENS = 2, 2, 4
"""Samples of a step, images to encode or caption, and tokens of a caption without a GPU, where others take hours."""
IMAGES = 128
"""Number of images that a GPU encodes, and captions."""
SIDE = 256
LIMITS = {torch.float32: 0.01, torch.bfloat16: 0.1}
"""The largest difference of loss and gradients from the CPU's in float64, relative: of convolutions in TF32, and of
rounding to bfloat16."""
SMALL = (
    DiTConfig(latent_size=16, width=128, depth=2, heads=4, text_width=64),
    RINConfig(
        latent_size=16,
        interface_width=64,
        num_latent_tokens=32,
        latent_width=128,
        blocks=1,
        layers_per_block=2,
        read_write_heads=4,
        compute_heads=4,
        refiner_heads=4,
        text_width=64,
    ),
)
"""The networks that are compared."""


class Weights(NamedTuple):
    """The pretrained networks of curation, by name."""

    captioner: str = LLAVA
    vae: str = VAE
    text: str = TEXT


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The speed of this machine."""

    device: str
    """Name of the GPU, or "cpu"."""
    peak_tflops: float | None
    """Peak of the device in TFLOP/s by its data sheet; None = not known."""
    agrees: bool
    """Small networks compute here what they compute on the CPU."""
    check: str
    """The largest differences, in words."""
    images_per_second: dict[str, float]
    """Rates of "train", "encode" and "caption"; a stage that was not measured is missing."""
    how: dict[str, str]
    """Stage -> what was measured, or why nothing was and what helps."""
    memory: int
    """The most bytes that training took on the GPU; without one, the whole process in main memory."""


def measure(config: TrainConfig, share: int, mean_tokens: float, weights: Weights | None = None) -> Measured:
    """Measure training by `config` with `share` samples of a step for one device, and curation with `weights` (None =
    the paper's), for texts of `mean_tokens` tokens, 2 or more."""
    device, weights = pick_device(), weights or Weights()
    set_threads(config.threads)
    agrees, check = compare_with_cpu(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    rates, how = {}, {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    rates["train"], how["train"] = _train(config, share, mean_tokens, device)
    memory = peak_memory()
    stages: dict[str, Callable[..., tuple[float, str]]] = {"encode": _encode, "caption": _caption}
    for stage, work in stages.items():
        try:
            rates[stage], how[stage] = work(weights, round(mean_tokens), device)
        except UserError as error:
            how[stage] = str(error)
    return Measured(
        device=name,
        peak_tflops=peak_tflops(name),
        agrees=agrees,
        check=check,
        images_per_second=rates,
        how=how,
        memory=memory,
    )


def compare_with_cpu(device: torch.device) -> tuple[bool, str]:
    """Compare loss and gradients of `SMALL` on the device in fp32 and bf16, compiled where training compiles, with the
    CPU's in float64. Return whether all differ by no more than `LIMITS`, and the largest differences in words."""
    agrees, said = True, []
    for dtype, limit in LIMITS.items():
        differences = []
        for config in SMALL:
            loss, gradients = _loss_and_gradients(config, device, dtype)
            expected, exact = _loss_and_gradients(config, torch.device("cpu"), torch.float64)
            differences += [abs(loss / expected - 1), float((gradients - exact).norm() / exact.norm())]
        agrees &= all(difference <= limit for difference in differences)  # of NaN it is false
        said.append(f"{max(differences):.1g} in {str(dtype).removeprefix('torch.')} (at most {limit:g})")
    verb = "agree with" if agrees else "DIFFER FROM"
    return agrees, f"loss and gradients of small networks {verb} the CPU's in float64: {', '.join(said)}"


def _loss_and_gradients(
    config: DiTConfig | RINConfig, device: torch.device, dtype: torch.dtype
) -> tuple[float, torch.Tensor]:
    """Return the loss of a fixed batch, and the gradients of all weights one after another, float64 on the CPU."""
    network, rng = initial_network(config, 0), philox(0, "measure/check")

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))

    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.05 * draw(*weight.shape)  # outputs that start at 0 would hide the gradients behind them
    network = network.to(device, dtype)
    network.reset_buffers()
    if compiles(RuntimeOptions(), device, dtype, split=False):
        compile_blocks(network)
    lengths = torch.tensor([40, 5, 17, 29])
    mask = torch.arange(40) < lengths[:, None]  # (4, 40)
    shape = (len(lengths), config.latent_channels, config.latent_size, config.latent_size)
    t = torch.tensor([0.1, 0.4, 0.6, 0.9])
    batch = Batch(
        latents=draw(*shape),
        text=TextEncoding((draw(*mask.shape, config.text_width) * mask[..., None]).to(dtype), mask),
        t=t,
        alpha_bar=1 - t,
        noise=draw(*shape),
        dropped=torch.tensor([False, False, True, False]),
        numbers=torch.arange(len(lengths)),
    )
    null = draw(1, config.text_width).to(device, dtype)
    keep = torch.tensor([True, False, True, True]) if isinstance(config, RINConfig) else None
    loss, _ = diffusion_loss(network, batch.to(device), null, self_condition_keep=keep)
    loss.backward()
    gradients = [weight.grad.flatten() for weight in network.parameters() if weight.grad is not None]
    return loss.item(), torch.cat(gradients).double().cpu()


@contextlib.contextmanager
def synthetic_set(config: TrainConfig, mean_tokens: float) -> Iterator[EncodedStore]:
    """Give an encoded set of `RECORDS` random records that fit `config`, of half to one and a half times `mean_tokens`
    tokens; it is gone afterwards."""
    model, rng = config.model, philox(0, "measure/records")
    shape = (model.latent_channels, model.latent_size, model.latent_size)
    lengths = np.linspace(0.5 * mean_tokens, 1.5 * mean_tokens, RECORDS).round().astype(int)
    codes, scale = quantize(rng.standard_normal((lengths.max(), model.text_width)))

    def records() -> Iterator[EncodedRecord]:
        for number, length in enumerate(rng.permutation(lengths).tolist()):
            latents = rng.standard_normal(shape).astype(np.float16)
            yield EncodedRecord(
                key=f"synthetic/{number}",
                class_name="synthetic",
                caption="synthetic",
                text_codes=codes[:length],
                text_scale=scale[:length],
                latent_mean=latents,
                latent_std=np.abs(latents),
            )

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "set"
        stage = open_stage(folder, stage="encode", config={})
        write_encoded(folder, records(), latent_shape=shape, text_width=model.text_width)
        stage.finish({"records": RECORDS}, facts={"null_condition": pack_floats(np.zeros((1, model.text_width)))})
        yield open_encoded(folder)


def _train(config: TrainConfig, share: int, mean_tokens: float, device: torch.device) -> tuple[float, str]:
    """Return the images per second of real steps, loader and optimizer included, and what was done."""
    share = share if device.type == "cuda" else min(share, CPU_SAMPLES)
    total = (WARM + STEPS) * share
    config = replace(
        config,
        num_images=total,
        batch_size=share,
        augment_prob=0.0,
        augment_prob_end=None,
        caption_mix={},
        caption_mix_start_image=0,
        validation_records=0,
        stop_after_no_gain=None,
        sample_every_images=None,
    )
    with synthetic_set(config, mean_tokens) as store:
        trainer = Trainer(store.directory, store, None, config, device)
        size, began = trainer.samples_per_pass, 0.0
        numbers = passes(0, share, total, size, trainer.reader.lengths)
        with read_ahead(trainer.reader, numbers, device=device) as loader, progress("measure", total) as bar:
            for step in range(WARM + STEPS):
                if step == WARM:
                    _wait(device)
                    began = time.perf_counter()
                trainer.stepper.step([next(loader) for _ in range(share // size)])
                trainer.stepper.catch_up(1)
                bar.advance(share)
            _wait(device)
            seconds = time.perf_counter() - began
    done = f"{STEPS} steps of {share} images, {size} a pass, in {trainer.state.compute}"
    return STEPS * share / seconds, done + ", compiled" * trainer.state.compiled


def _encode(weights: Weights, tokens: int, device: torch.device) -> tuple[float, str]:
    """Return the images per second, each with one text, and what was done."""
    for name, patterns in ((weights.vae, VAE_FILES), (weights.text, TEXT_FILES)):
        _check_at_hand(name, patterns)
    dtype = torch.bfloat16 if device.type == "cuda" and is_fast_in_bf16(device) else None
    codec, encoder = load_codec(weights.vae, device, dtype), load_text_encoder(weights.text, device, dtype)
    count = IMAGES if device.type == "cuda" else CPU_IMAGES
    images, texts = _images(count), [_text_of(encoder, tokens)] * count

    def work() -> None:
        codec.encode(images)
        getattr(encoder, "quantize", encoder.encode)(texts)

    return count / _seconds(work, device), f"{count} images of {SIDE} px with texts of {tokens} tokens"


def _caption(weights: Weights, tokens: int, device: torch.device) -> tuple[float, str]:
    """Return the images per second, of captions that are all cut at one length, and what was done."""
    _check_at_hand(weights.captioner, LLAVA_FILES)
    captioner = Llava(weights.captioner, device)
    count, length = (IMAGES, min(tokens, MAX_NEW_TOKENS)) if device.type == "cuda" else (CPU_IMAGES, CPU_TOKENS)
    questions = [make_question(image, None, captioner.side) for image in _images(count)]
    rate = count / _seconds(lambda: captioner.describe(questions, length), device)
    return rate, f"{count} images, at most {length} tokens a caption"


def _check_at_hand(name: str, patterns: Any) -> None:
    if at_hand(name, patterns) is None:
        raise UserError(f"{name} is not on this machine: hf download {name}")


def _images(count: int) -> np.ndarray:
    """Return noise, uint8 (count, SIDE, SIDE, 3)."""
    return philox(0, "measure/images").integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)


def _text_of(encoder: TextEncoder, tokens: int) -> str:
    """Return a text of about so many tokens."""
    words = "a photo of "
    return words * max(1, round(tokens / encoder.count_tokens([words])[0]))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of the second call of `work`; the first one loads weights and plans kernels."""
    work()
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()
