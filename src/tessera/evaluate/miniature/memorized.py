"""Copies in the miniature: generated images against training images and held-out renders, flipped ones too.

Two measures of distance: the shipped detector's features, averaged over 4 x 4 parts of the frame, so that places count,
and pixels, averaged to 16 x 16.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tessera.evaluate.copies.distances import Nearest, Yardstick, copied, copy_numbers, nearest_training, yardstick
from tessera.evaluate.miniature.likeness import held_out
from tessera.evaluate.scores import Number, Protocol
from tessera.files import sha256_file
from tessera.miniature import WorldConfig, draw_scene, render, scene_key
from tessera.prompts.miniature import world_of
from tessera.stages import MANIFEST

METRIC = "copies-miniature-1"
"""Name of the protocol."""
MEASURES = {"copies": "features", "pixel_copies": "pixels"}
"""Metric -> what its distances are of; `METRIC`_ratio goes with each."""
HELD_OUT = 600
"""Renders of held-out scenes that are the yardstick."""
_GRID, _PIXELS, _BATCH = 4, 16, 64


@dataclass(frozen=True)
class Reference:
    """The training images of a world as tables, and how near held-out ones lie to them; by the names in `MEASURES`."""

    training: Mapping[str, np.ndarray]
    yardsticks: Mapping[str, Yardstick]


def tables(images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the features (N, 768) and the pixels (N, 768) of uint8 (N, S, S, 3), both float32."""
    import torch
    import torch.nn.functional as F

    from tessera.evaluate.miniature.detector import load_detector, to_input

    network, parts = load_detector(), [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
    with torch.inference_mode():
        pooled = [F.adaptive_avg_pool2d(network.features(to_input(part)), _GRID).flatten(1) for part in parts]
        pixels = [F.adaptive_avg_pool2d(to_input(part), _PIXELS).flatten(1) for part in parts]
    return {"features": torch.cat(pooled).numpy(), "pixels": torch.cat(pixels).numpy()}


def both_ways(images: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Return `tables` of the images as they are and mirrored left to right, a list for each measure."""
    found = [tables(images), tables(images[:, :, ::-1].copy())]
    return {name: [each[name] for each in found] for name in found[0]}


@functools.lru_cache(maxsize=2)
def reference(world: WorldConfig) -> Reference:
    """Return the tables of a world's training images, rendered again, and the yardsticks of its held-out scenes."""
    training = tables(np.stack([render(draw_scene(world, n), world.size) for n in range(world.num_images)]))
    others = held_out(world)
    unseen = both_ways(np.stack([render(draw_scene(others, n), others.size) for n in range(HELD_OUT)]))
    return Reference(
        training, {name: yardstick(nearest_training(unseen[name], training[name])) for name in MEASURES.values()}
    )


def measure_copies(
    images: np.ndarray, prompts: Sequence[Any], training: Path, protocol: Protocol
) -> tuple[list[Number], list[dict[str, Any]], dict[str, Any]]:
    """Compare generated uint8 (N, S, S, 3), N prompts, with the directory `training` of the miniature world.

    Returns the numbers; of each image {"values": by metric, "nearest": {features or pixels: {image, flipped, ratio}}},
    the ratio being its distance over the held-out median; and facts about the yardstick. protocol: the judge's.
    """
    world = world_of(training)
    against, drawn = reference(world), both_ways(images)
    numbers, items = [], [{"values": {}, "nearest": {}} for _ in images]
    known = {"reference": sha256_file(training / MANIFEST), "reference_images": world.num_images}
    for metric, name in MEASURES.items():
        by, found = against.yardsticks[name], nearest_training(drawn[name], against.training[name])
        encoder = {} if name == "features" else {"encoder": "16 x 16 pixels", "encoder_sha256": None}
        settings = {"held_out": by.images, "flipped": True, "extended": protocol.settings["extended"]}
        own = replace(protocol, name=METRIC, settings=settings, **encoder, **known)
        numbers += copy_numbers(metric, found, by, prompts, own)
        for item, is_copy, row, flipped, ratio in zip(items, copied(found, by), *_said(found, by)):
            item["values"][metric] = float(is_copy)
            item["nearest"][name] = {"image": scene_key(world, row), "flipped": flipped, "ratio": round(ratio, 4)}
    facts = {name: {"median": by.median, "closest": by.closest} for name, by in against.yardsticks.items()}
    return numbers, items, facts


def _said(found: Nearest, by: Yardstick) -> tuple[list[int], list[bool], list[float]]:
    """Return rows, whether mirrored, and distance over the held-out median, as plain numbers."""
    return found.rows.tolist(), (found.variants > 0).tolist(), (found.distances / by.median).tolist()
