"""The model card (README.md) that goes with published weights: use, recipe, data, scores and licenses."""

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from tessera import __version__
from tessera.config import UserError, to_dict
from tessera.files import read_json
from tessera.models.dit import DiT
from tessera.models.rin import RIN
from tessera.weights.export import ExportInfo, SweepTable

OWN_PARTS = ("pixel-unshuffle", "words")
"""Families of codecs and text encoders that are part of tessera: nothing is fetched for them."""


def score_lines(scores: Mapping[str, Any] | str | Path) -> list[str]:
    """Return a table of scores as Markdown lines.

    scores: {name: number, or {"value", "low", "high"}}; or the scores.json of `tessera evaluate` (the file, or its
    directory), whose protocols stand below the table. Raises UserError when there is no score in it.
    """
    protocols: dict[str, None] = {}
    numbers: Mapping[str, Any] = scores if isinstance(scores, Mapping) else {}
    if not isinstance(scores, Mapping):
        path = Path(scores) / "scores.json" if Path(scores).is_dir() else Path(scores)
        found = read_json(path)
        try:
            numbers = {number["metric"]: number for number in found["numbers"]}
            protocols = {f"{number['protocol']['name']}, {number['n']:,} images": None for number in found["numbers"]}
        except (KeyError, TypeError):
            raise UserError(f"{path}: is not the scores.json of `tessera evaluate`") from None
    rows = []
    for name, entry in numbers.items():
        found = entry if isinstance(entry, Mapping) else {"value": entry}
        value, low, high = (found.get(key) for key in ("value", "low", "high"))
        if isinstance(value, int | float):
            interval = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
            rows.append(f"| {name} | {value:.4g} | {interval} |")
    if not rows:
        raise UserError('scores: give {name: number} or {name: {"value", "low", "high"}}; there is no number in these')
    lines = ["| score | value | 95% interval |", "|---|---|---|", *rows]
    return [*lines, "", f"Protocol: {'; '.join(protocols)}."] if protocols else lines


def sweep_lines(table: SweepTable) -> list[str]:
    """Return the table that the sampling defaults were chosen from as Markdown lines, the best of its metric first."""
    metrics = list(dict.fromkeys(metric for row in table.rows for metric in row.scores))
    lines = [f"| guidance | t | steps | {' | '.join(metrics)} |", "|---" * (3 + len(metrics)) + "|"]
    for row in table.rows:
        values = [f"{row.scores[metric]:.4g}" if metric in row.scores else "" for metric in metrics]
        where = "{:g} to {:g}".format(*row.guidance_interval)
        lines.append(f"| {row.guidance_scale:g} | {where} | {row.sampling_steps} | {' | '.join(values)} |")
    about = f"Guidance and steps were chosen by {table.chosen_by}, the first row, of these settings; {table.images:,}"
    return [f"{about} images each, of the same prompts from the same noise.", "", *lines]


def model_card(
    network: DiT | RIN,
    info: ExportInfo,
    *,
    repo_id: str | None = None,
    scores: Mapping[str, Any] | str | Path | None = None,
    data: str | None = None,
    license: str | None = None,
) -> str:
    """Compose the text of README.md, with the front matter that the Hub reads.

    repo_id: where it will be published. scores: see `score_lines`. data: its training data, in words. license: id of
    the weights' license, for example "cc-by-nc-4.0".
    """
    kind = {"DiT": "DiT-I", "RIN": "CAD-I"}[type(network).__name__]
    name = repo_id.split("/")[-1] if repo_id else f"{kind} {info.arm}".strip()
    shape = ", ".join(f"{key} {value}" for key, value in to_dict(network.config).items() if key != "kind")
    clip = "none" if info.clip_denoised is None else f"{info.clip_denoised:g}"
    interval = "" if info.guidance_interval is None else " for t from {:g} to {:g}".format(*info.guidance_interval)
    recipe = {
        "network": f"{kind}, {network.parameter_count:,} parameters ({shape})",
        "arm": info.arm or "none named",
        "training images seen": f"{info.num_images:,}",
        "noise schedule": info.noise_schedule,
        "the network predicts": info.prediction,
        "latents": f"`{info.latent_codec}`, minus {_numbers(info.latent_shift)}, times {_numbers(info.latent_scale)}",
        "text encoder": f"`{info.text_encoder}`",
        "image": f"{', '.join(info.trained_sizes).replace('x', ' x ')} pixels",
        "sampling": f"{info.sampling_steps} steps, guidance {info.guidance_scale:g}{interval}, x0 clamped at: {clip}",
    }
    credits = ["The images are by:", "", *(f"- {line}" for line in info.credits), ""] if info.credits else []
    inputs = [f"- {label}: `{sha256}`" for label, sha256 in info.inputs]
    if inputs:
        inputs = ["Directories it was trained from, by the sha256 of their manifests:", "", *inputs, ""]
    parts = []
    for part in (info.latent_codec, info.text_encoder):
        own = part.partition(":")[0] in OWN_PARTS
        terms = "part of tessera, Apache-2.0" if own else "not contained here; fetched by its id, under its own license"
        parts.append(f"- `{part}`: {terms}.")
    values = {
        "license": f"license: {license}" if license else "license: other\nlicense_name: not-stated",
        "name": name,
        "where": repo_id or "this folder or repository",
        "recipe": "\n".join(f"| {label} | {text} |" for label, text in recipe.items()),
        "sweep": "\n".join([] if info.sweep is None else ["", *sweep_lines(info.sweep), ""]),
        "data": "\n".join([data or _data_of(info), "", *credits, *inputs]),
        "prompt": json.dumps(_example_of(info), ensure_ascii=False),
        "scores": "\n".join(["None were given."] if scores is None else score_lines(scores)),
        "weights": license or "not stated",
        "parts": "\n".join(parts),
        "version": __version__,
    }
    template = resources.files("tessera").joinpath("assets", "model_card.md").read_text(encoding="utf-8")
    return Template(template).substitute(values)


def _data_of(info: ExportInfo) -> str:
    """Return what the export says of its training set."""
    seen = info.captions
    if seen is None or not seen.images:
        return "Not stated by who published these weights."
    tokens = "{} to {}".format(*seen.tokens)
    told = f"{seen.images:,} images of {seen.classes:,} classes, with captions of {tokens} tokens"
    return f"{told}, such as: {json.dumps(_example_of(info), ensure_ascii=False)}" if seen.examples else f"{told}."


def _example_of(info: ExportInfo) -> str:
    """Return a prompt that the model should know: the longest of its captions' examples."""
    examples = info.captions.examples if info.captions else ()
    return max(examples, key=len, default="a red fox on fresh snow")


def _numbers(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else "(" + ", ".join(f"{value:g}" for value in values) + ")"
