"""figure tau: CutMix images at rising noise (the paper's Figure 7), and how well their seams can still be detected.

The number below the image is an AUC: how often a CutMix image scores higher than a plain one, both noised to t, by
the likelihood-ratio test for a step along the edges of a known box. With x_t = alpha x0 + sigma eps, the step across
one edge in one channel is estimated by the mean difference of the two cells next to it, over the edge's n cells; its
noise has variance 2 sigma^2 / n, so the test of a step of unknown height is the sum of n step^2 / (2 sigma^2) over
edges and channels. 0.5 = chance: noise, and the edges that images have anyway, hide the seam. `d'` is the bound for
an observer who knows the step itself: alpha / sigma times the length of the steps in units of their noise.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tessera.config import UserError, check_ranges, to_dict
from tessera.cutmix import PATTERNS, Line, compose, draw_placement, edges_of, label_of
from tessera.encoded.seams import SEAMS, TIMES
from tessera.evaluate.quality.features import SUFFIXES
from tessera.files import atomic_path, read_table, sha256_file, write_json, write_text
from tessera.images import read_rgb
from tessera.metrics.shares import auc
from tessera.miniature import WorldConfig, draw_composed, render
from tessera.randomness import philox
from tessera.report.examples import spread
from tessera.stages import open_stage, read_manifest

HIDDEN = 0.6
"""A seam counts as hidden from the t on from which its AUC stays below this."""
_SHOWN = (0.0, 0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True, kw_only=True)
class TauConfig:
    """Settings of the figure."""

    schedule: str = "linear"
    """Noise schedule, t -> alpha_bar."""
    codec: str = "pixel-unshuffle:4"
    """The codec that makes latents of images."""
    scale: float = 1.0
    """Latents are multiplied by it, above 0."""
    size: int = 64
    """Side of the images in pixels."""
    num_images: int = 64
    """Number of images, at least 8."""
    seed: int = 0
    """Seed of placements and noise."""

    def __post_init__(self):
        check_ranges(self, scale="(0, inf)", size="[16, inf)", num_images="[8, inf)")


def steps_at(lines: Sequence[Line], latents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the step of latents (C, h, w) at each line and channel, in units of its noise at sigma 1."""
    found = []
    for axis, line, first, end in lines:
        cells = latents if axis == 2 else latents.transpose(0, 2, 1)
        difference = cells[:, first:end, line] - cells[:, first:end, line - 1]  # (C, n)
        found.append(difference.mean(1) * math.sqrt((end - first) / 2))
    return np.array(found)


def tau(out: Path, images: Path | None, config: TauConfig = TauConfig(), learned: Path | None = None) -> None:
    """Write tau.png, tau.md and tau.json into `out`; do nothing when they are there.

    learned: a directory of `tessera tau`, whose AUC and distribution of min_t are shown next to the test's AUC. Raises
    UserError for bad images, and for a directory of another schedule or scale.
    """
    from tessera.diffusion.schedule import get_schedule
    from tessera.pretrained.vae import load_codec

    schedule, codec = get_schedule(config.schedule), load_codec(config.codec)
    codec.latent_shape(config.size)  # says what is wrong with the size
    files = [] if images is None else _choose(Path(images), config.num_images)
    hashes = {file.relative_to(images).as_posix(): sha256_file(file) for file in files if images is not None}
    inputs = {} if learned is None else {"tau": Path(learned)}
    found = None if learned is None else _learned(Path(learned), config)
    stage = open_stage(out, stage="figure tau", config=to_dict(config) | {"images": hashes or None}, inputs=inputs)
    if stage.done:
        return
    if files:
        plain = np.stack([_square(read_rgb(file), config.size) for file in files])
        classes = [file.parent.name for file in files]
    else:
        world = WorldConfig(size=config.size)
        scenes = [draw_composed(world, i, 1, "figure tau") for i in range(config.num_images)]
        plain = np.stack([render(scene, config.size) for scene in scenes])
        classes = [scene.objects[0].shape for scene in scenes]
    rows, noised = {}, {}
    for pattern in PATTERNS:
        mixed, boxes = _mixed(pattern, plain, classes, config)
        latents = [codec.encode(images)[0].astype(np.float64) * config.scale for images in (plain, mixed)]
        rows[pattern] = detectability(latents[0], latents[1], boxes, config, schedule)
        noised[pattern] = _noised(mixed[0], codec, config, schedule)
    summary = {
        "schedule": config.schedule,
        "times": list(TIMES),
        "alpha_bar": alpha_bars(schedule, TIMES),
        "patterns": rows,
        "hidden_from": {name: _hidden_from(row["auc"]) for name, row in rows.items()},
    } | ({} if found is None else {"learned": found})
    write_json(out / "tau.json", summary)
    write_text(out / "tau.md", _markdown(summary))
    _draw(out / "tau.png", noised, summary)
    stage.finish({"images": len(plain), "patterns": len(rows)})


def _learned(directory: Path, config: TauConfig) -> dict[str, Any]:
    """Return pattern -> AUC at each of TIMES, min_t, and the share of images with each min_t of TIMES and 1."""
    manifest = read_manifest(directory, "tau")
    if (schedule := manifest.config["noise_schedule"]) != config.schedule:
        raise UserError(f"{directory}: is of another schedule than {config.schedule}; give --schedule {schedule}")
    scales = manifest.config["latent_scale"]
    if len(scales) == 1 and not math.isclose(scales[0], config.scale, rel_tol=1e-4):
        raise UserError(f"{directory}: is of another scale than {config.scale:g}; give --scale {scales[0]:g}")
    table, found = read_table(directory / SEAMS, ["pattern", "min_t"]).to_pydict(), {}
    patterns, min_t = np.array(table["pattern"]), np.array(table["min_t"])
    for name, facts in manifest.facts["patterns"].items():
        own = min_t[patterns == name]
        shares = [float(np.isclose(own, t).mean()) for t in (*TIMES, 1.0)]
        found[name] = {"auc": facts["auc"], "min_t": facts["min_t"], "shares": shares}
    return found


def detectability(
    plain: NDArray[np.float64], mixed: NDArray[np.float64], boxes: Sequence[Any], config: TauConfig, schedule: Any
) -> dict[str, list[float]]:
    """Return AUC and d' of one pattern at each of TIMES. plain, mixed: latents (N, C, h, w); boxes: in pixels."""
    edges = [edges_of(box, config.size, plain.shape[-1]) for box in boxes]
    clean = [[steps_at(lines, x) for lines, x in zip(edges, latents)] for latents in (plain, mixed)]
    found: dict[str, list[float]] = {"auc": [], "d_prime": []}
    for number, alpha_bar in enumerate(alpha_bars(schedule, TIMES)):
        alpha, sigma = math.sqrt(alpha_bar), math.sqrt(max(1 - alpha_bar, 1e-9))
        rng = philox(config.seed, "figure/tau", number)
        # The steps' estimates of white noise are white noise too: drawing it there is exact, except where lines meet.
        scores = [
            [float(np.square(alpha / sigma * step + rng.standard_normal(step.shape)).sum()) for step in steps]
            for steps in clean
        ]
        found["auc"].append(auc(scores[1], scores[0]))
        found["d_prime"].append(float(np.median([alpha / sigma * np.linalg.norm(step) for step in clean[1]])))
    return found


def alpha_bars(schedule: Any, times: Sequence[float]) -> list[float]:
    """Return the schedule at each of `times`, in float64."""
    import torch

    return schedule(torch.tensor(times, dtype=torch.float64)).tolist()


def _hidden_from(values: Sequence[float]) -> float | None:
    """Return the smallest of TIMES from which on the AUC stays below HIDDEN; None if it never does."""
    hidden = list(itertools.takewhile(lambda pair: pair[1] < HIDDEN, zip(TIMES[::-1], values[::-1])))
    return hidden[-1][0] if hidden else None


def _choose(directory: Path, count: int) -> list[Path]:
    """Return files below the directory, taken evenly over all."""
    found = sorted(path for path in directory.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if len(found) < 8:
        raise UserError(f"{directory}: holds {len(found)} images, at least 8 are needed")
    return spread(found, count)


def _square(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    cropped = image.crop((left, top, left + side, top + side))
    return np.asarray(cropped.resize((size, size), Image.Resampling.BICUBIC))


def _mixed(
    pattern: str, plain: NDArray[np.uint8], classes: Sequence[str], config: TauConfig
) -> tuple[NDArray[np.uint8], list[tuple[int, int, int, int]]]:
    """Return each image with a partner, of another class where there are several, pasted in; and the boxes."""
    out, boxes = [], []
    for i, base in enumerate(plain):
        rng = philox(config.seed, f"figure/tau/{pattern}", i)
        others = [j for j in range(len(plain)) if classes[j] != classes[i]] or [j for j in range(len(plain)) if j != i]
        placement = draw_placement(pattern, config.size, rng)
        out.append(compose(base, plain[others[int(rng.integers(len(others)))]], placement))
        boxes.append(placement.box)
    return np.stack(out), boxes


def _noised(image: NDArray[np.uint8], codec: Any, config: TauConfig, schedule: Any) -> list[NDArray[np.uint8]]:
    """Return the image noised in latent space at each of _SHOWN and decoded."""
    latents = codec.encode(image[None])[0].astype(np.float64) * config.scale
    noise = philox(config.seed, "figure/tau/shown").standard_normal(latents.shape)
    noised = [math.sqrt(a) * latents + math.sqrt(1 - a) * noise for a in alpha_bars(schedule, _SHOWN)]
    return [codec.decode((x / config.scale).astype(np.float32))[0] for x in noised]


def _markdown(summary: dict[str, Any]) -> str:
    names = [label_of(name) for name in summary["patterns"]]
    lines = [
        f"# Seams under noise, schedule {summary['schedule']}",
        "",
        "AUC of the best test for a CutMix boundary at a known place, against plain images: 1 = always seen,",
        "0.5 = chance. In brackets d', the bound for an observer who knows the step.",
        "",
        "| t | alpha_bar | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for i, (t, power) in enumerate(zip(summary["times"], summary["alpha_bar"])):
        pairs = [(row["auc"][i], row["d_prime"][i]) for row in summary["patterns"].values()]
        cells = [f"{area:.2f} ({f'{bound:.1f}' if bound < 100 else '> 100'})" for area, bound in pairs]
        lines.append(f"| {t:.2f} | {power:.3f} | " + " | ".join(cells) + " |")
    when = ["never" if t is None else f"from t = {t:.2f}" for t in summary["hidden_from"].values()]
    hidden = ", ".join(map(" ".join, zip(names, when)))
    lines += ["", f"Hidden (AUC below {HIDDEN}): {hidden}. The paper's tau is 0.40.", ""]
    for name, learned in summary.get("learned", {}).items():
        ends = np.searchsorted(np.cumsum(learned["shares"]), (0.25, 0.5, 0.75))
        low, middle, high = (f"{(*TIMES, 1.0)[end]:.2f}" for end in ends)
        said = f"a median of {middle}, half of them from {low} to {high}; the pattern's is {learned['min_t']:.2f}"
        lines.append(f"- Learned, {label_of(name)}: the images' own min_t has {said}.")
    return "\n".join(lines)


def _draw(path: Path, noised: dict[str, list[NDArray[np.uint8]]], summary: dict[str, Any]) -> None:
    """Draw rows of patterns, columns of times, the AUC under each image, and its curves below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    learned, colors = summary.get("learned", {}), ("#0072b2", "#d55e00", "#00805f", "#aa4499")
    figure = Figure(figsize=(8, 1.75 * len(noised) + 3 + 2 * bool(learned)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    heights = [1.0] * len(noised) + [1.6] + [1.0] * bool(learned)
    grid = figure.add_gridspec(len(heights), len(_SHOWN), height_ratios=heights)
    for i, (name, images) in enumerate(noised.items()):
        for j, (t, image) in enumerate(zip(_SHOWN, images)):
            axes = figure.add_subplot(grid[i, j], xticks=[], yticks=[])
            axes.imshow(image, interpolation="nearest" if len(image) <= 128 else "antialiased")
            place = TIMES.index(t)
            axes.set_xlabel(f"AUC {summary['patterns'][name]['auc'][place]:.2f}", fontsize=9)
            if j == 0:
                axes.set_ylabel(label_of(name))
            if i == 0:
                axes.set_title(f"t = {t:g}, {summary['alpha_bar'][place]:.0%} signal", fontsize=9)
    axes = figure.add_subplot(grid[len(noised), :])
    marks = ("o", "s", "D", "^")  # and colors safe for color-blind readers
    for (name, row), color, mark in zip(summary["patterns"].items(), itertools.cycle(colors), itertools.cycle(marks)):
        axes.plot(TIMES, row["auc"], color=color, marker=mark, markersize=4, label=label_of(name))
    axes.axhline(0.5, color="#888888", linewidth=0.8)
    axes.axvline(0.4, color="#888888", linewidth=0.8, linestyle="--")
    axes.text(0.405, 0.97, "the paper's tau", fontsize=8, color="#555555")
    axes.set_ylim(0.4, 1.02)
    axes.set_xlabel(f"t (schedule {summary['schedule']})")
    axes.set_ylabel("AUC of the seam")
    if learned:
        own = figure.add_subplot(grid[len(noised) + 1, :], sharex=axes)
        for name, color in zip(summary["patterns"], colors):
            if (found := learned.get(name)) is None:
                continue
            axes.plot(TIMES, found["auc"], color=color, linestyle=":", label=f"{label_of(name)}, learned")
            own.step((*TIMES, 1.0), np.cumsum(found["shares"]), color=color, where="post")
        own.set_ylim(0, 1)
        own.set_xlabel("min_t")
        own.set_ylabel("share of images")
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        canvas.print_png(temporary, metadata={"Software": None})
