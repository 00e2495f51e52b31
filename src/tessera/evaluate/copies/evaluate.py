"""evaluate copies: which training images generated ones lie nearest to, how near, and by what yardstick.

Distances are of the features of DINOv2, and of SSCD where its weights are given: each network has its numbers and its
sheet. A generated image counts as it is, mirrored, its middle, and that mirrored; a training image as it is and its
middle, so that copies that zoom in or out are found too. The yardstick is the same of held-out images; without any, of
training images, each compared with all others.
"""

import hashlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tessera.config import UserError, check_ranges, to_dict
from tessera.devices import usual_defaults, world_size
from tessera.evaluate.copies.distances import (
    AT_ONCE,
    Nearest,
    closest,
    copied,
    copy_numbers,
    nearest_training,
    search_seconds,
    yardstick,
)
from tessera.evaluate.intervals import share_number
from tessera.evaluate.quality.captions import numbered_prompts, read_captions, words_for
from tessera.evaluate.quality.features import Images, find_images, say_others
from tessera.evaluate.quality.reference import FEATURES, SAMPLES, Source, reference_of, user_cache
from tessera.evaluate.scores import Number, Protocol, Scores, library_versions, write_scores
from tessera.files import atomic_path, exclusive_lock, write_json
from tessera.images import image_grid, read_rgb, thumbnail, write_png
from tessera.progress import duration_text, progress
from tessera.randomness import philox
from tessera.stages import is_complete, open_stage

if TYPE_CHECKING:
    from tessera.pretrained.features.encoder import ImageEncoder

METRIC = "copies-1"
"""Name of the protocol."""
SSCD = "sscd"
"""Name of the second network in numbers, views and files; the first one has none."""
CROP = 0.8
"""Side of an image's middle, over its own."""
YARDSTICK = 2000
"""Training images that are the yardstick where no held-out ones are given."""
PAIRS, SIDE = 24, 192
"""Pairs on the sheet, and the side of each image on it in pixels."""
SHEETS = {"closest.png": "closest.json", f"closest-{SSCD}.png": f"closest-{SSCD}.json"}
"""Sheet of each network -> the pairs on it."""
Table = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class CopiesConfig:
    """Options of the search for copies."""

    rounding: Literal["round", "truncate"] = "round"
    """Rounding of .npy images in floating point to bytes."""
    batch_size: int = 32
    """Images in one forward, at least 1."""
    seed: int = 0
    """Seed of the draw of the training images that are the yardstick."""

    def __post_init__(self):
        check_ranges(self, batch_size="[1, inf)", seed="[0, 2**64)")


def _mirrored(image: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(image[:, ::-1])


def _middle(image: NDArray[Any]) -> NDArray[Any]:
    height, width = (max(1, round(CROP * side)) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])


VIEWS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "as it is": lambda image: image,
    "mirrored": _mirrored,
    "its middle": _middle,
    "its middle, mirrored": lambda image: _mirrored(_middle(image)),
}
"""Name of a view -> the pixels that the network is shown of an image (H, W, 3)."""
OF_TRAINING = ("as it is", "its middle")
PLAIN = ("as it is", "as it is")
SEARCHES = (
    PLAIN,
    ("mirrored", "as it is"),
    ("its middle", "as it is"),
    ("its middle, mirrored", "as it is"),
    ("as it is", "its middle"),
    ("mirrored", "its middle"),
)
"""(view of a generated image, view of the training images)."""


class View:
    """A network that sees a part of an image, or its mirror image; otherwise an `ImageEncoder`."""

    def __init__(self, encoder: "ImageEncoder", name: str):
        self.id, self.sha256 = encoder.id, encoder.sha256
        self.network, self.features = encoder.network, encoder.features
        plain, self.encoder, self.view = name == "as it is", encoder, VIEWS[name]
        middle = f", the middle being {CROP} of each side" if "middle" in name else ""
        self.resizing = encoder.resizing if plain else f"{name}{middle}: {encoder.resizing}"

    def prepare(self, image: NDArray[Any]) -> Any:
        """Return the network's input of what is seen of (H, W, 3)."""
        return self.encoder.prepare(self.view(image))


@usual_defaults
def evaluate_copies(
    out: Path,
    samples: Path,
    training: Path,
    encoder: "ImageEncoder",
    config: CopiesConfig = CopiesConfig(),
    *,
    sscd: "ImageEncoder | None" = None,
    held_out: Path | None = None,
    prompts: Path | None = None,
    name: str | None = None,
    num_images: int | None = None,
    cache: Path | None = None,
    chunk: int = 256,
) -> bool:
    """Compare `samples` with the images of `training` into `out`/scores.json; resumable. Return True when complete.

    `out`/closest.png shows the closest pairs. sscd: a second network, whose numbers and sheet are named after it.
    held_out: images that no training saw, the yardstick. prompts: a caption for each image, which intervals are over;
    of samples of `generate` they are known; else intervals are over images. The rest is as in `evaluate_quality`.
    """
    out, samples, cache = Path(out), Path(samples), cache or user_cache()
    images, known = find_images(samples, "sample"), _images_of(training, "training")
    source = Source(known.directory, known.sha256, known)
    unseen = None if held_out is None else _images_of(held_out, "held-out")
    if unseen is not None and unseen.sha256 == source.sha256:
        raise UserError(f"{held_out}: holds the training images themselves; give images that no training saw")
    captions = read_captions(images, prompts) if prompts or images.drawn else None
    described = to_dict(config) | {
        "metric": METRIC,
        "samples": images.sha256,
        "training": source.sha256,
        "held_out": unseen and unseen.sha256,
        "prompts": captions and hashlib.sha256("".join(f"{text}\n" for text in captions).encode()).hexdigest(),
        "network": [encoder.id, encoder.sha256, encoder.resizing],
        "name": name or samples.name,
        "num_images": num_images,
    }
    described |= {SSCD: [sscd.id, sscd.sha256, sscd.resizing]} if sscd else {}
    stage = open_stage(out, stage="evaluate copies", config=described, shared=True)
    work = out / "work"
    if stage.done:
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed here
        return True
    say_others("copies", images, known, unseen)
    networks = {"": encoder} | ({SSCD: sscd} if sscd else {})
    views: Any = {prefix + view: View(network, view) for prefix, network in networks.items() for view in VIEWS}
    how = config.batch_size, config.rounding
    of_training = {prefix + view: views[prefix + view] for prefix in networks for view in OF_TRAINING}
    reference = reference_of(source, of_training, cache, work / "training", *how, chunk)
    generated = Source(images.directory, images.sha256, images)
    drawn = reference_of(generated, views, cache / SAMPLES, work / "samples", *how, chunk, "copies")
    skip, of_yard, rest = None, unseen, views
    if of_yard is None:
        skip = np.sort(philox(config.seed, "copies/yardstick").permutation(len(known.files))[:YARDSTICK])
        digest = hashlib.sha256(f"{known.sha256} {skip.tolist()}".encode()).hexdigest()
        of_yard = replace(known, files=tuple(known.files[row] for row in skip), sha256=digest)
        rest = {name: view for name, view in views.items() if name not in of_training}
    measure = Source(of_yard.directory, of_yard.sha256, of_yard)
    measured = reference_of(measure, rest, cache, work / "yardstick", *how, chunk, "yardstick")
    if reference is None or drawn is None or measured is None:
        return False
    yard = dict(measured.features)
    if skip is not None:
        yard |= {name: features[skip] for name, features in reference.features.items()}
    with ExitStack() as held:
        try:
            held.enter_context(exclusive_lock(out, "another process searches"))
        except UserError:
            if world_size() == 1:
                raise
            return False  # another rank has seen everything too, and searches
        if is_complete(out):
            return True
        against = reference.features
        searched = [len(images.files)] * (len(SEARCHES) + 1) + [len(yard["as it is"])] * len(SEARCHES)
        for prefix in networks:
            _say_cost(searched, against[f"{prefix}as it is"])
        numbers: list[Number] = []
        facts: dict[str, Any] = {}
        texts = captions or [None] * len(images.files)
        items: list[dict[str, Any]] = [
            {"prompt": prompt, "sample": sample, "file": file, "text": text, "values": {}}
            for file, text, (prompt, sample) in zip(images.files, texts, numbered_prompts(captions or images.files))
        ]
        for (prefix, network), sheet in zip(networks.items(), SHEETS):
            ours, theirs = (_of_network(prefix, features) for features in (yard, against))
            by = yardstick(closest(_searches(ours, theirs, work / f"nearest{prefix}", "yardstick", skip)))
            if not by.median:
                raise UserError(
                    f"{held_out or training}: half of the images are copies of other training images; give others"
                )
            each = _searches(_of_network(prefix, drawn.features), theirs, work / f"nearest{prefix}", "samples")
            found = closest(each)
            metric = "_".join([*filter(None, [prefix]), "copies"])
            protocol = Protocol(
                metric=metric,
                name=METRIC,
                encoder=network.id,
                encoder_sha256=network.sha256,
                resize=network.resizing,
                rounding=config.rounding if images.arrays or reference.arrays else None,
                images=len(images.files),
                reference=source.sha256,
                reference_images=reference.images,
                prompts_sha256=described["prompts"],
                extender=images.drawn.extender if images.drawn else None,
                settings={"yardstick": unseen.sha256 if unseen else "training images, each without itself"}
                | {"yardstick_images": by.images, "crop": CROP},
                versions=library_versions(),
            )
            numbers += copy_numbers(metric, found, by, captions, protocol)
            values = {metric: copied(found, by)}
            if not prefix:
                authentic = _authentic(each[0], theirs["as it is"], work / "nearest")
                alone = replace(protocol, metric="authenticity", name="dgm-eval", settings={})
                numbers.append(share_number("authenticity", authentic.astype(float).tolist(), captions, alone))
                values["authenticity"] = authentic
            nearest = f"{prefix}_nearest" if prefix else "nearest"
            for row, ratio in enumerate(found.distances / by.median):
                view, of = SEARCHES[found.variants[row]]
                near = {"image": known.files[found.rows[row]], "view": view, "of": of, "ratio": round(float(ratio), 4)}
                items[row][nearest] = near
                items[row]["values"] |= {name: float(value[row]) for name, value in values.items()}
            _write_sheet(out, sheet, images, known, [(item["file"], item[nearest]) for item in items])
            facts |= {
                f"{prefix}_{name}" if prefix else name: getattr(by, name)
                for name in ("median", "closest", "duplicates")
            }
        facts = words_for(images, source, config.rounding) | facts
        scores = Scores(kind="copies", name=described["name"], numbers=tuple(numbers), items=tuple(items), facts=facts)
        write_scores(out, replace(scores, num_images=num_images))
        counts = {"images": len(images.files), "training": reference.images, "yardstick": len(yard["as it is"])}
        stage.finish(counts)
        shutil.rmtree(work, ignore_errors=True)
        return True


def _images_of(directory: Path, what: str) -> Images:
    """Return the images of a directory; UserError where it holds their features, which no sheet can show."""
    if any(Path(directory).glob(f"*{FEATURES}")):
        raise UserError(f"{directory}: holds features; give the {what} images themselves, whose features are cached")
    return find_images(directory, what)


def _of_network(prefix: str, features: Mapping[str, Table]) -> dict[str, Table]:
    """Return the features of the views of one network by the views' names."""
    return {view: features[prefix + view] for view in VIEWS if prefix + view in features}


def _searches(
    views: Mapping[str, Table], against: Mapping[str, Table], work: Path, what: str, skip: NDArray[Any] | None = None
) -> list[Nearest]:
    """Return what each of SEARCHES finds; `skip` as in `nearest_training`."""
    count, found = len(views["as it is"]), []
    with progress(f"nearest of {what}", len(SEARCHES) * count) as bar:
        for number, (view, of) in enumerate(SEARCHES):
            parts = []
            for rows in _rows(count):
                own = None if skip is None else skip[rows]
                parts.append(_search(views[view][rows], against[of], work / f"{what}-{number}-{rows.start}.npy", own))
                bar.advance(len(parts[-1][0]))
            distances, nearest = (np.concatenate(part) for part in zip(*parts))
            found.append(Nearest(distances, nearest, np.zeros(count, np.int64)))
    return found


def _rows(count: int) -> list[slice]:
    return [slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE)]


def _search(features: Table, training: Table, path: Path, skip: NDArray[Any] | None) -> tuple[NDArray[Any], ...]:
    """Return (distances, rows) of one search, of `path` where it was done before."""
    if not path.is_file():
        found = nearest_training([features], training, skip)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, np.stack([found.distances, found.rows.astype(np.float64)]))
    distances, rows = np.load(path)
    return distances, rows.astype(np.int64)


def _authentic(plain: Nearest, training: Table, work: Path) -> NDArray[np.bool_]:
    """Return whether each image lies farther from its nearest training image than that one from its own: bool (N,).

    The mean is AuthPct of Alaa et al. 2022 over 100, as dgm-eval computes it.
    """
    rows, place = np.unique(plain.rows, return_inverse=True)
    own = [
        _search(training[rows[part]], training, work / f"own-{part.start}.npy", rows[part])[0]
        for part in _rows(len(rows))
    ]
    return np.concatenate(own)[place] < plain.distances


def _say_cost(images: Sequence[int], training: Table) -> None:
    """Say how long searches of so many images each among the training features take."""
    text = f"copies: {sum(images):,} searches among {len(training):,} x {training.shape[1]}"
    print(f"{text}, about {duration_text(search_seconds(images, training))}", file=sys.stderr)


def _write_sheet(
    out: Path, sheet: str, images: Images, training: Images, nearest: Sequence[tuple[str, Mapping[str, Any]]]
) -> None:
    """Write the closest pairs, side by side, and what they are in their order."""
    best = sorted(nearest, key=lambda pair: (pair[1]["ratio"], pair[0]))[:PAIRS]
    shown = []
    for drawn, near in best:
        for place, file in ((images.directory, drawn), (training.directory, near["image"])):
            small = thumbnail(read_rgb(place / file), SIDE)
            tile = np.full((SIDE, SIDE, 3), 255, np.uint8)
            tile[: small.shape[0], : small.shape[1]] = small
            shown.append(tile)
    write_png(out / sheet, image_grid(np.stack(shown), 6, gap=4))
    write_json(out / SHEETS[sheet], [{"file": drawn, **near} for drawn, near in best])
