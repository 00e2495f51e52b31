"""The export of a finished run, from which images can be sampled: EMA weights and the settings that sampling needs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from tessera.config import UserError, check_ranges, from_dict, to_dict
from tessera.encoded.record import unpack_floats
from tessera.files import read_json
from tessera.models.build import build_network
from tessera.models.dit import DiT
from tessera.models.rin import RIN
from tessera.stages import find_stage, open_stage, read_manifest
from tessera.train import checkpoint
from tessera.train.config import TrainConfig
from tessera.train.dataset_checks import CONTENT_FACTS, NETWORKS
from tessera.train.state import OWN
from tessera.weights.export import CaptionsSeen, ExportInfo, save_export

FACTS = "facts.json"
"""File in a run's folder: the facts of its manifest to be, for an export before the end."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The choice of weights, and the sampling defaults that go with them."""

    weights: Literal["ema", "online", "best"] = "ema"
    """The EMA weights (the paper's results), the last ones, or the EMA with the lowest loss on held-out records."""
    guidance_scale: float = 3.0
    """w of uncond + w (cond - uncond), finite; 1 = off."""
    sampling_steps: int = 250
    """DDIM steps, >= 1; the paper's is 250."""
    clip_denoised: float | None = None
    """Largest absolute value of a predicted x0, > 0; None = that of the run's own training latents
    (`tessera.train.algorithm1.latent_limit`)."""
    credits: tuple[str, ...] = ()
    """Lines of the model card: who made the training images, and under which license."""

    def __post_init__(self) -> None:
        check_ranges(self, sampling_steps="[1, inf)", guidance_scale="(-inf, inf)", clip_denoised="(0, inf)")


def export(
    out: Path,
    run: Path,
    config: ExportConfig | None = None,
    *,
    num_images: int | None = None,
    unfinished: bool = False,
) -> None:
    """Write the weights of the complete run `run` to `out`, for `tessera.weights.export.load_export`.

    A complete `out` is left as it is. num_images: the number of a checkpoint kept on the way, not of the best EMA;
    None = the last one. unfinished: take a run that has not ended too; the fact "unfinished" is then the number of
    images it is to see. Raises UserError, before anything is written, for a run that is unfinished, has lost that
    checkpoint or measured no held-out loss.
    """
    out, run, config = Path(out), Path(run), config or ExportConfig()
    if config.weights == "best" and num_images is not None:
        raise UserError(f"num_images: {num_images} says nothing of the best EMA; leave it out, or give weights ema")
    manifest = read_manifest(run, "train", must_be_complete=not unfinished)
    inputs, more = {"run": run}, {}
    if not manifest.complete:
        found = checkpoint.latest(run)
        if found is None:
            raise UserError(f"{run}: is unfinished and has no checkpoint yet; wait for one")
        num_images, inputs = num_images or int(found.name), {}
        more = {"unfinished": manifest.config["num_images"]}
        manifest = replace(manifest, facts=read_json(run / FACTS))
    chosen = {} if num_images is None else {"num_images": num_images}
    made: dict[str, Any] = {"stage": "export", "config": to_dict(config) | chosen | more, "inputs": inputs}
    stage = find_stage(out, **made)
    if stage is not None and stage.done:
        return
    trained = from_dict(TrainConfig, manifest.config, where=f"{run / 'manifest.json'}: config")
    place = run / checkpoint.FOLDER / f"{num_images or manifest.counts['num_images']:012d}"
    if config.weights == "best":
        found = checkpoint.latest(run / checkpoint.BEST)
        if found is None:
            fix = "leave out --best, or train with --validation-records"
            raise UserError(f"{run}: keeps no best EMA, since no loss on held-out records was measured; {fix}")
        place = found
    if not place.is_dir():
        last = "last " if num_images is None else ""
        raise UserError(f"{place}: the run's {last}checkpoint is missing; delete {run} and train again")
    state = checkpoint.load(place)
    network = network_of(trained, state, "master/" if config.weights == "online" else "ema/")
    info = info_of(trained, manifest.facts, config, state.num_images, {"run": manifest.sha256, **manifest.inputs})
    stage = open_stage(out, **made)
    save_export(out, network, info)
    counts = {"num_images": state.num_images, "parameters": network.parameter_count}
    stage.finish(counts=counts, facts={"arm": manifest.facts["arm"]} | more)


def network_of(trained: TrainConfig, state: checkpoint.Checkpoint, prefix: str) -> DiT | RIN:
    """Return the network with the weights of a checkpoint whose names begin with `prefix`, without the objective's."""
    with torch.device("meta"):
        network = build_network(trained.model)
    weights = {name.removeprefix(prefix): w for name, w in state.tensors.items() if name.startswith(prefix)}
    weights = {name: w for name, w in weights.items() if not name.startswith(f"{OWN}.")}
    network.load_state_dict(weights, assign=True)
    return network


def info_of(
    trained: TrainConfig, facts: Mapping[str, Any], config: ExportConfig, num_images: int, inputs: Mapping[str, str]
) -> ExportInfo:
    """Return the settings of an export of a run. facts: the run's. inputs: hashes of what it was made from."""
    own: dict[str, Any] = {name: facts.get(name) for name in (*NETWORKS, *CONTENT_FACTS, "image_size", "arm")}
    for name in ("latent_shift", "latent_scale", "noise_schedule", "prediction"):
        own[name] = getattr(trained, name)
    own["sizes"] = tuple(facts.get("buckets", ()))
    if "captions_seen" in facts:
        own["captions"] = from_dict(CaptionsSeen, facts["captions_seen"], where="the run's facts")
    return ExportInfo(
        **own,
        guidance_scale=config.guidance_scale,
        sampling_steps=config.sampling_steps,
        clip_denoised=config.clip_denoised or facts.get("latent_limit"),
        num_images=num_images,
        credits=config.credits,
        inputs=tuple(sorted(inputs.items())),
        null_condition=torch.from_numpy(unpack_floats(facts["null_condition"])),
    )
