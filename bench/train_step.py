"""A whole training step (loss, backward, clip, optimizer, EMA): python bench/train_step.py [--threads 1] [--batches 64]

Without a GPU, at reduced depth, L = 190 text tokens, random weights and data, by turns, the best of several rounds:
  DiT-I L/2 (no refiner, because PixArt has none) as `tessera train` steps it (bf16 compute, fp32 masters, AdamW, EMA),
      eager and with `--compile on`, against diffusers' PixArtTransformer2DModel of the same width, heads and depth with
      AdamW and EMA, once all in bf16 and once in fp32 under autocast to bf16;
  CAD-I L with our self-conditioning (first pass without gradient, on kept samples, text refined once) against a first
      pass on all samples with the text refined again, as published;
  both also with gradient checkpointing.
With `--methods`: steps, reading included, of the methods of docs/method.md over those of the paper, for networks
  of the miniature and for DiT-I S/2 (L = 24 and 180 text tokens; features of 64 x 64 and, as DINOv2-B's, of 256 x 768),
  half of the samples CutMix images, and nothing else.
With `--sizes`: a step of the preset `emoji` at 64 px over one at 32 px (L = 40), and nothing else.
With a GPU: both networks at full size, compiled, at the batch sizes of `--batches`, by turns on 16 different batches of
20 to 300 tokens a text: images/s, and TFLOP/s by formula as a share of `--peak` (989, an H200's by its data sheet,
dense bf16). A batch that does not fit into memory is said and left out.
"""

import argparse
import functools
import gc
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from loader import make_set

from tessera.diffusion.loss import drop_captions
from tessera.diffusion.schedule import add_noise
from tessera.encoded.seams import Seams
from tessera.encoded.store import EncodedStore, open_encoded
from tessera.models.dit import DIT_I_L2, DIT_I_S2, DiTConfig
from tessera.models.flops import step_flops
from tessera.models.rin import CAD_I_L
from tessera.presets.imagenet import cad_i_l, dit_i_l2
from tessera.presets.lookup import load_run_preset
from tessera.presets.miniature import SMALL_DIT, SMALL_RIN
from tessera.records import DenoiserState
from tessera.train.config import RuntimeOptions, TrainConfig
from tessera.train.loader import HostBatch
from tessera.train.loop import Trainer
from tessera.train.optim.config import OptimConfig

CPU_BATCH = 4
GPU_BATCHES = 16
FEWEST, MOST = 20, 300  # tokens of a text on a GPU
ROUNDS = 6
NETWORKS = {"DiT-I L/2": dit_i_l2, "CAD-I L": cad_i_l}


def trainer_of(
    config: TrainConfig,
    store: EncodedStore,
    batch: int,
    device: str,
    augmented: EncodedStore | None = None,
    seams: Seams | None = None,
    **options: Any,
) -> Trainer:
    """Return a trainer of steps of one pass. options: of RuntimeOptions."""
    config = replace(
        config,
        num_images=10**6 * batch,
        batch_size=batch,
        augment_prob=0.5 if augmented else 0.0,
        validation_records=0,
        sample_every_images=None,
    )
    runtime = RuntimeOptions(device_batch_size=batch, **options)
    return Trainer(Path("unused"), store, augmented, config, torch.device(device), runtime, seams=seams)


def batches_of(trainer: Trainer, count: int) -> list[HostBatch]:
    """Return the first batches of a trainer whose pass is its batch, ready for its device."""
    size = trainer.samples_per_pass
    read = [trainer.reader(range(n * size, (n + 1) * size)) for n in range(count)]
    return [batch.pinned() for batch in read] if trainer.state.device.type == "cuda" else read


def pixart_step(config: DiTConfig, loaded: list, *, autocast: bool) -> Callable[[], None]:
    from diffusers.models.transformers.pixart_transformer_2d import PixArtTransformer2DModel

    dtype = torch.float32 if autocast else torch.bfloat16
    torch.manual_seed(0)
    network = PixArtTransformer2DModel(
        num_attention_heads=config.heads,
        attention_head_dim=config.width // config.heads,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        num_layers=config.depth,
        cross_attention_dim=config.width,
        sample_size=config.latent_size,
        patch_size=config.patch_size,
        caption_channels=config.text_width,
        use_additional_conditions=False,
    ).to(dtype)  # type: ignore[arg-type]
    weights = list(network.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1e-4, fused=True)
    average = [w.detach().clone() for w in weights]
    batch = loaded[0].to("cpu", torch.bfloat16)
    mask = batch.text.mask.to(dtype)

    def step() -> None:
        x = add_noise(batch.latents, batch.noise, batch.alpha_bar).to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            words = batch.text.embeddings.to(dtype)
            output = network(x, words, (1000 * batch.t).long(), {}, encoder_attention_mask=mask).sample
        F.mse_loss(output.float(), batch.noise).backward()
        torch.nn.utils.clip_grad_norm_(weights, 2.0)
        optimizer.step()
        optimizer.zero_grad()
        torch._foreach_lerp_(average, [w.detach() for w in weights], 1e-4)  # type: ignore[attr-defined]

    return step


def published_self_conditioning(trainer: Trainer, loaded: list) -> Callable[[], None]:
    """Make our step with the published first pass: all samples, text and all."""

    def step() -> None:
        host = loaded[0]
        batch = host.to("cpu", trainer.state.dtype)
        x = add_noise(batch.latents, batch.noise, batch.alpha_bar)
        text = drop_captions(batch.text, batch.dropped, trainer.stepper.null_condition)
        with torch.no_grad():
            _, first = trainer.state.network(x, batch.alpha_bar, text)
        tokens = torch.where(host.self_condition[:, None, None], first.latent_tokens, 0.0)
        output, _ = trainer.state.network(x, batch.alpha_bar, text, DenoiserState(latent_tokens=tokens))
        F.mse_loss(output.float(), batch.noise).backward()
        trainer.state.optimizer.add_gradients()
        trainer.state.optimizer.clip()
        trainer.state.optimizer.step(1.0, None, trainer.state.ema, 10)

    return step


def by_turns(steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the seconds of the fastest of several rounds of each, in processor time if there is one thread."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    best = dict.fromkeys(steps, math.inf)
    for _ in range(ROUNDS):
        for name, step in steps.items():
            began = clock()
            step()
            best[name] = min(best[name], clock() - began)
    return best


def dit_on_cpu(store: EncodedStore) -> None:
    adamw = OptimConfig(name="adamw", lr=1e-4)
    dit = replace(DIT_I_L2, depth=2, refiner_depth=0)
    config = replace(dit_i_l2(), model=dit, optim=adamw)
    trainer = trainer_of(config, store, CPU_BATCH, "cpu")
    loaded = batches_of(trainer, 1)
    compiled = trainer_of(config, store, CPU_BATCH, "cpu", compile=True)
    compiled.stepper.step(loaded)  # compiles
    less = trainer_of(config, store, CPU_BATCH, "cpu", gradient_checkpointing=True)
    best = by_turns(
        {
            "eager": lambda: trainer.stepper.step(loaded),
            "compiled": lambda: compiled.stepper.step(loaded),
            "less": lambda: less.stepper.step(loaded),
            "pure": pixart_step(dit, loaded, autocast=False),
            "autocast": pixart_step(dit, loaded, autocast=True),
        }
    )
    print(
        f"DiT-I L/2, 2 blocks, batch {CPU_BATCH}, seconds a step: eager {best['eager']:.3f}, compiled "
        f"{best['compiled']:.3f}; PixArt {best['pure']:.3f} in pure bf16, {best['autocast']:.3f} in autocast; "
        f"gradient checkpointing takes {best['less'] / best['eager']:.2f} x the time of eager",
        flush=True,
    )
    for ours in ("eager", "compiled"):
        ratios = (best[theirs] / best[ours] for theirs in ("pure", "autocast"))
        print("  {}: {:.2f} x PixArt in pure bf16, {:.2f} x in autocast".format(ours, *ratios), flush=True)


def cad_on_cpu(store: EncodedStore) -> None:
    rin = replace(CAD_I_L, blocks=1)
    config = replace(cad_i_l(), model=rin)
    trainer = trainer_of(config, store, CPU_BATCH, "cpu")
    loaded = batches_of(trainer, 1)
    less = trainer_of(config, store, CPU_BATCH, "cpu", gradient_checkpointing=True)
    best = by_turns(
        {
            "ours": lambda: trainer.stepper.step(loaded),
            "less": lambda: less.stepper.step(loaded),
            "published": published_self_conditioning(trainer, loaded),
        }
    )
    print(
        f"CAD-I L, 1 block, batch {CPU_BATCH}, LAMB: {best['ours']:.2f} s a step; with the published self-conditioning "
        f"{best['published']:.2f} s, ratio {best['published'] / best['ours']:.2f}; gradient "
        f"checkpointing takes {best['less'] / best['ours']:.2f} x the time",
        flush=True,
    )


METHODS: dict[str, dict[str, Any]] = {
    "paper": {},
    "flow": {"noise_schedule": "flow", "prediction": "velocity", "t_distribution": "logit_normal"},
    "tau of each image": {"augment_min_t": "recipe"},
    "mixes without their borders": {"seam_margin": 1},
    "perturbed conditions": {"condition_noise": 1.0},
    "self-aligned": {"objective": "self-aligned"},
    "feature-aligned": {"objective": "feature-aligned"},
}


def methods_on_cpu(folder: Path) -> None:
    """Print what a step costs, from the reading of its samples on, with each method over the paper's."""
    cases = [("miniature's DiT", SMALL_DIT, 32), ("miniature's RIN", SMALL_RIN, 32), ("DiT-I S/2", DIT_I_S2, 4)]
    for number, (name, model, batch) in enumerate(cases):
        small = batch > 4
        made: Any = functools.partial(
            make_set,
            count=64,
            linked=False,
            tokens=24 if small else 180,
            width=model.text_width,
            shape=(model.latent_channels, model.latent_size, model.latent_size),
            features=(64, 64) if small else (256, 768),
        )
        plain, mixed = (open_encoded(made(folder / f"{number}-{seed}", seed=seed)) for seed in (0, 1))
        pixels = 8 * model.latent_size
        right_halves = np.tile(np.array([pixels // 2, 0, pixels, pixels], np.int32), (len(mixed), 1))
        seams = Seams(mixed.keys(), ["half"] * len(mixed), right_halves, np.linspace(0.0, 0.6, len(mixed)))
        config = TrainConfig(model=model, num_images=batch, batch_size=batch, optim=OptimConfig(name="adamw"))
        steps = {}
        for method, changes in METHODS.items():
            changed = replace(config, **changes)
            trainer = trainer_of(changed, plain, batch, "cpu", mixed, seams if changed.needs_seams else None)
            steps[method] = functools.partial(_read_and_step, trainer)
        best = by_turns(steps)
        told = ", ".join(f"{each} {best[each] / best['paper']:.3f}" for each in steps if each != "paper")
        print(f"{name}, batch {batch}: {best['paper']:.3f} s a step; x {told}", flush=True)


def _read_and_step(trainer: Trainer) -> None:
    trainer.stepper.step(batches_of(trainer, 1))


def sizes_on_cpu(folder: Path) -> None:
    """Print what a step of `emoji` costs at 64 px, over one at 32 px."""
    steps = {}
    for size in (32, 64):
        config = load_run_preset("emoji", size=size).arms[0].train
        model = config.model
        shape = (model.latent_channels, model.latent_size, model.latent_size)
        made = make_set(folder / str(size), 64, 0, False, tokens=40, width=model.text_width, shape=shape)
        trainer = trainer_of(
            replace(config, caption_mix={}, caption_mix_start_image=0, objective="paper"),
            open_encoded(made),
            config.batch_size,
            "cpu",
        )
        steps[str(size)] = functools.partial(trainer.stepper.step, batches_of(trainer, 1))
    best = by_turns(steps)
    print(f"emoji: {best['32']:.3f} s a step at 32 px, {best['64'] / best['32']:.2f} x at 64")


def on_gpu(
    store: EncodedStore,
    batches: list[int],
    peak: float,
    steps: int = 20,
    networks: Mapping[str, Callable[[], TrainConfig]] = NETWORKS,
    device: str = "cuda",
) -> list[dict]:
    """Print a line for each network and batch, and return them as dicts. device: "cpu" for small networks."""
    rows = []
    for name, make in networks.items():
        config = make()
        for batch in batches:
            row = {"network": name, "batch": batch}
            try:
                row |= measured(trainer_of(config, store, batch, device), steps)
            except torch.OutOfMemoryError:
                print(f"{name}, batch {batch}: does not fit into memory", flush=True)
            # A trainer refers to itself by its hooks and programs, and the error above to its tensors.
            gc.collect()
            torch.cuda.empty_cache()  # nothing where CUDA was never begun
            if "images_per_second" in row:
                tflops = row["images_per_second"] * step_flops(config.model, row["tokens"], 0.9) / 1e12
                row |= {"tflops": tflops, "share_of_peak": tflops / peak}
                print(
                    f"{name}, batch {batch}, {row['gpu']}: {row['images_per_second']:.0f} images/s, {tflops:.0f} "
                    f"TFLOP/s, {tflops / peak:.0%} of {peak:.0f}; {row['gigabytes']:.0f} GB",
                    flush=True,
                )
            rows.append(row)
    return rows


def measured(trainer: Trainer, steps: int) -> dict:
    """Return the rate of `steps` steps on `GPU_BATCHES` batches, after one on each, which compiles for their shapes."""
    loaded, on_cuda = batches_of(trainer, GPU_BATCHES), trainer.state.device.type == "cuda"

    def finished() -> float:
        if on_cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    for host in loaded:
        trainer.stepper.step([host])
    began = finished()
    for host in itertools.islice(itertools.cycle(loaded), steps):
        trainer.stepper.step([host])
    seconds, batch = finished() - began, trainer.samples_per_pass
    return {
        "gpu": torch.cuda.get_device_name() if on_cuda else "CPU",
        "images_per_second": steps * batch / seconds,
        "tokens": sum(host.tokens for host in loaded) / (len(loaded) * batch),
        "gigabytes": torch.cuda.max_memory_allocated() / 1e9 if on_cuda else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--peak", type=float, default=989.0)
    parser.add_argument("--methods", action="store_true")
    parser.add_argument("--sizes", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.methods:
            methods_on_cpu(Path(temporary))
        elif arguments.sizes:
            sizes_on_cpu(Path(temporary))
        elif torch.cuda.is_available():
            made = make_set(Path(temporary) / "set", 2048, 0, False, tokens=MOST, fewest=FEWEST)
            on_gpu(open_encoded(made), arguments.batches, arguments.peak)
        else:
            store = open_encoded(make_set(Path(temporary) / "set", 512, 0, False))
            dit_on_cpu(store)
            cad_on_cpu(store)


if __name__ == "__main__":
    main()
