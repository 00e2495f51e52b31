"""Train a vision network on a set's own images and labels, and study a denoiser whose inner tokens follow its features.

    python scripts/own_vision.py out/miniature/images --out out/vision
    tessera study scripts/own_vision.py:aligned --out out/studies
    tessera study scripts/own_vision.py:to_score --out out/studies

So alignment with a vision network (REPA) is measured with one that has seen no image but the set's: a ConvNeXt V2 (Woo
et al. 2023) for 32 px of 0.3 million weights that names the class of random crops. It prints how often it is right on
the tenth of the images that it has not seen. `tessera encode --features convnextv2:out/vision` reads it.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

from tessera.curate.index import read_images
from tessera.devices import set_threads
from tessera.images import read_rgb
from tessera.presets.config import RunConfig
from tessera.pretrained.features.encoder import IMAGENET_MEAN, IMAGENET_STD
from tessera.progress import progress
from tessera.study import Study
from tessera.study.variants import at_budgets, first, first_half, retrained, today, variants, with_ia

FOLDER = "out/vision"
SIDE, BATCH, PEAK_RATE = 32, 100, 2e-3


def following(config: RunConfig, whole: bool = False) -> RunConfig:
    """Return the run with features that the network follows for the first half of the images, or to the end."""
    changed = replace(config, encode=replace(config.encode, features=f"convnextv2:{FOLDER}"))
    aligned = {"objective": "balanced-feature-aligned"}
    return retrained(changed, lambda t: replace(t, align_until_image=None if whole else first_half(t), **aligned))


def aligned() -> Study:
    """Return the study: today's training of TA+IA without the features, with them to the end and for the first half."""
    config = with_ia(today(), start=0)
    arms = {"ta_ia": config, "vision": following(config, whole=True), "vision_first_half": following(config)}
    return Study(
        name="own_vision",
        title="Alignment with a vision network of the set's own images",
        question="Does a model learn the miniature from fewer images where its inner tokens follow the features of a"
        " network that was trained on the same images and their classes? And if that ends after half of them?",
        variants=variants(arms),
        seeds=(0, 1, 2),
        kinds=("extended", "short"),
        scores=first("overall"),
    )


def to_score() -> Study:
    """Return the study of the images that a score takes, with the features for the first half and without."""
    runs = {budget: with_ia(today(budget), start=0) for budget in (44_000, 88_000)}
    return Study(
        name="own_vision_to_score",
        title="Images that a score takes, with a vision network of the set's own images",
        question="With features to follow for the first half of the images, does a model reach with fewer images what"
        " the preset reaches with all?",
        variants=at_budgets(runs, "vision", following),
        seeds=(0, 1, 2),
        kinds=("extended", "short"),
        scores=first("overall"),
        axis="images seen",
    )


def cropped(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cut a square of 0.6 to 1 of the side out of each image (B, 3, S, S), at a random place, and resize it to S."""
    scale = torch.empty(len(images)).uniform_(0.6, 1, generator=generator)
    place = torch.empty(2, len(images)).uniform_(-1, 1, generator=generator) * (1 - scale)
    none = torch.zeros_like(scale)
    rows = torch.stack([torch.stack([scale, none, place[0]], 1), torch.stack([none, scale, place[1]], 1)], 1)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", type=Path, help="a directory of images, from `tessera collect`")
    parser.add_argument("--out", type=Path, default=Path(FOLDER))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    set_threads(1)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    rows = list(read_images(args.images))
    names = sorted({row.class_name for row in rows})
    classes = torch.tensor([names.index(row.class_name) for row in rows])
    images = torch.from_numpy(np.stack([read_rgb(args.images / str(row.file)) for row in rows])).permute(0, 3, 1, 2)
    images = (images / 255 - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]
    unseen = torch.arange(len(rows)) % 10 == 9
    seen = torch.nonzero(~unseen)[:, 0]
    stages = {"num_stages": 2, "hidden_sizes": [32, 96], "depths": [1, 3]}  # 16 x 16 and 8 x 8 places
    config = ConvNextV2Config(image_size=SIDE, patch_size=2, id2label=dict(enumerate(names)), **stages)
    network = ConvNextV2ForImageClassification(config)
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_RATE, weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, args.steps, pct_start=0.1)
    with progress("train", args.steps, "steps") as bar:
        for _ in range(args.steps):
            drawn = seen[torch.randint(len(seen), (BATCH,), generator=generator)]
            loss = network(pixel_values=cropped(images[drawn], generator), labels=classes[drawn]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            bar.advance()
    network.eval().convnextv2.save_pretrained(args.out)
    with torch.inference_mode():
        said = network(pixel_values=images[unseen]).logits.argmax(1)
    right = float((said == classes[unseen]).float().mean())
    print(f"loss {loss.item():.3f}; right on {right:.2f} of {len(said)} unseen images (chance {1 / len(names):.2f})")


if __name__ == "__main__":
    main()
