"""Words that no caption has, drawn by an export with a language model's embeddings and by one with `words`.

    python scripts/near_words.py out/emoji/export/ta out/words/export/ta

Each of ten prompts says a thing by a word that no caption has, and so does a caption's own phrase for it. Both are
drawn, with 39 other phrases, from the same noise. Counted: how often the image of the new word lies nearest, by its
pixels, to that of the phrase that it means (chance: 1 in 40), and its mean place among the 40. --sheet FILE.png shows
the first images, the new word's above the phrase's.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from tessera.generate.pipeline import Pipeline

NEAR = {
    "a scarlet apple": "a red apple",
    "a fir": "an evergreen tree",
    "a puppy": "a dog",
    "a cottage": "a house",
    "an infant": "a baby",
    "a yacht": "a sailboat",
    "a toad": "a frog",
    "a fiddle": "a violin",
    "spectacles": "glasses",
    "a cellphone": "a mobile phone",
}
"""New word -> what captions call it."""
OTHERS = (
    "a cat", "a pig", "a horse", "a snake", "a rabbit", "an owl", "an octopus", "a snail", "a turtle", "a penguin",
    "a bicycle", "an airplane", "a rocket", "an anchor", "a bus", "a key", "a bell", "an umbrella", "a blue book",
    "a camera", "a hammer", "a trophy", "a balloon", "a guitar", "a pizza", "a banana", "a strawberry", "a doughnut",
    "a sunflower", "a mushroom",
)  # fmt: skip
SEED = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw ten prompts with new words, by each export.")
    parser.add_argument("exports", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=8, help="images of each prompt")
    parser.add_argument("--sheet", type=Path, help="a picture of the first image of each")
    args = parser.parse_args()
    known, rows = [*NEAR.values(), *OTHERS], []
    for export in args.exports:
        pipeline = Pipeline.load(export)
        drawn = {text: draw(pipeline, text, args.images) for text in [*NEAR, *known]}
        print(f"{export}: {pipeline.info.text_encoder}")
        places = {new: places_of(drawn[new], [drawn[text] for text in known], known.index(NEAR[new])) for new in NEAR}
        for new, place in places.items():
            print(f"  {new:16} -> {NEAR[new]:18} nearest in {np.mean(place == 1):.2f}, place {place.mean():4.1f}")
        every = np.concatenate(list(places.values()))
        print(f"  all: nearest in {np.mean(every == 1):.2f} (chance {1 / len(known):.2f}), place {every.mean():.1f}")
        rows += [[drawn[text][0] for text in texts] for texts in (NEAR, NEAR.values())]
    if args.sheet:
        sheet = np.concatenate([np.concatenate(row, 1) for row in rows])
        size = (sheet.shape[1] * 3, sheet.shape[0] * 3)
        Image.fromarray(sheet).resize(size, Image.Resampling.NEAREST).save(args.sheet)


def draw(pipeline: Pipeline, text: str, count: int) -> np.ndarray:
    """Return uint8 (count, S, S, 3); image k has the same noise for every text."""
    return pipeline.images([text] * count, [(0, k) for k in range(count)], seed=SEED)


def places_of(images: np.ndarray, known: list[np.ndarray], meant: int) -> np.ndarray:
    """Return for each of the images, (N, S, S, 3), the place of `known[meant]` among `known`, 1 being the nearest."""
    gaps = np.stack([((images.astype(np.float64) - other) ** 2).mean((1, 2, 3)) for other in known])  # (K, N)
    return 1 + (gaps < gaps[meant]).sum(0)


if __name__ == "__main__":
    main()
