"""Seams on demand: images that the arms of `tau` draw for captions of two backgrounds, as CutMix images have.

    python scripts/two_backgrounds.py out/studies                # after: tessera study tau --out out/studies

The captions are of CM 1/2 images of a world of another seed (77), whose two images differ in background, shape and
color: 60 captions, 2 images each. Prints the seam score and the share of visible seams of each arm, seed 0, with 95%
intervals over captions. Images lie in STUDIES/two_backgrounds/ARM.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from tessera.cutmix import placement_at
from tessera.evaluate.miniature import seam
from tessera.files import atomic_path
from tessera.generate.folder import GenerateConfig, generate
from tessera.images import read_rgb
from tessera.metrics import share_interval
from tessera.miniature import describe, draw_scene, mix_scene
from tessera.presets.miniature import MINIATURE_WORLD
from tessera.study.design import Cell, cells
from tessera.study.studies import tau

SEED, CAPTIONS = 77, 60


def captions() -> list[str]:
    """Return captions of CutMix images of two backgrounds."""
    world, texts, number = replace(MINIATURE_WORLD, seed=SEED), [], 0
    while len(texts) < CAPTIONS:
        base, partner = draw_scene(world, 2 * number), draw_scene(world, 2 * number + 1)
        number += 1
        a, b = base.objects[0], partner.objects[0]
        if a.shape != b.shape and a.color != b.color and base.backgrounds != partner.backgrounds:
            scene = mix_scene(base, partner, placement_at("half", world.size, number % 2), "centre")
            texts.append(describe(scene, SEED, number))
    return texts


def seams(studies: Path, cell: Cell) -> tuple[np.ndarray, list[str]]:
    """Return the seam score of each image of one cell, (N,), and its caption's number."""
    out = studies / "two_backgrounds"
    prompts = out / "prompts.jsonl"
    lines = [json.dumps({"prompt": text, "tag": "two backgrounds"}) for text in captions()]
    with atomic_path(prompts) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    export = studies / "cells" / cell.folder / "export" / cell.variant.arm.name
    drawn = out / cell.variant.name
    generate(drawn, export, prompts, GenerateConfig(per_prompt=2, seed=22, batch_size=40, threads=1))
    paths = sorted(drawn.glob("*/samples/*.png"))
    images = np.stack([read_rgb(path) for path in paths])
    return seam.seam_scores(images), [path.parts[-3] for path in paths]


def main() -> None:
    studies = Path(sys.argv[1])
    for cell in cells(tau(), seeds=[0]):
        scores, numbers = seams(studies, cell)
        said = []
        for name, values in (("seam score", scores), ("visible", (scores > seam.VISIBLE).astype(float))):
            found = share_interval(values, numbers)
            said.append(f"{name} {found.value:.2f} ({found.low:.2f} to {found.high:.2f})")
        print(f"{cell.variant.name}: {', '.join(said)}")


if __name__ == "__main__":
    main()
