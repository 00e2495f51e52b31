"""Train the miniature's detector on rendered images and write src/tessera/assets/miniature_detector.safetensors.

    python scripts/train_detector.py                 # the shipped weights: about 10 minutes on an idle core
    python scripts/train_detector.py --steps 300     # a quick trial

Everything is a function of --seed: scenes by address, one thread, no other source of chance. No generated image is
ever used, and the held-out scenes ("judge/heldout") are drawn at other addresses than the training ones.
Apart from plain renders it sees images a diffusion model may make: blurred, bent, noisy, darker; with a seam in the
background; and things that are no shape: objects cut in half, torn, merged, of two shapes or colors, blurred
away; ragged blobs, empty backgrounds, noise, shuffled patches.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from safetensors.torch import save

from tessera.devices import set_threads
from tessera.evaluate.miniature import spoil
from tessera.evaluate.miniature.calibrate import measure_judge
from tessera.evaluate.miniature.color_objects import SIZE
from tessera.evaluate.miniature.detector import GRID, Detector
from tessera.evaluate.miniature.fitting import fit, noise, shuffled, targets, weights_of
from tessera.evaluate.miniature.shipped import WEIGHTS
from tessera.files import atomic_path
from tessera.miniature import BACKGROUNDS, COLORS, SHAPES, WorldConfig, draw_composed, render
from tessera.progress import progress
from tessera.randomness import philox
from tessera.records import Scene

OUT = Path(__file__).parents[1] / "src" / "tessera" / "assets" / WEIGHTS


def training_image(world: WorldConfig, number: int) -> tuple[np.ndarray, Scene]:
    """Return image `number`, uint8 (32, 32, 3), and the scene of those objects that are to be found in it."""
    rng = philox(world.seed, "judge/train/kind", number)
    count = int(rng.choice([0, 1, 2, 3, 4], p=[0.12, 0.3, 0.38, 0.1, 0.1]))
    if count == 0:
        whole = draw_composed(world, number, 1, "judge/train")
        scene = replace(whole, objects=())
    else:
        scene = whole = draw_composed(world, number, count, "judge/train", same=bool(rng.random() < 0.3))
    if rng.random() < 0.3:  # smaller than the world draws them: pasted objects are
        factor = rng.uniform(0.75, 1)
        scene = replace(scene, objects=tuple(replace(o, diameter=o.diameter * factor) for o in scene.objects))
    image, kind = render(scene, SIZE), rng.random()
    if kind < 0.16:  # a seam in the background: the same objects before two grounds
        other = render(replace(scene, backgrounds=(str(rng.choice(world.backgrounds)),)), SIZE)
        image = np.where(_box(rng)[..., None], other, image)
    elif kind < 0.4 and scene.objects:
        image, scene = _spoiled(scene, rng)
    elif not scene.objects and kind < 0.8:
        garbage = (_blob, noise, shuffled)[int(rng.integers(3))]
        image = garbage(image if garbage is _blob else render(whole, SIZE), rng)
    return image, scene


def _spoiled(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, Scene]:
    """Spoil one object, two that are alone, or the whole image; return it with the scene of the sound objects."""
    thing, without, none = scene.objects[-1], replace(scene, objects=scene.objects[:-1]), replace(scene, objects=())
    angle, kind, pair = rng.uniform(0, 2 * np.pi), rng.random(), len(scene.objects) == 2
    if kind < 0.15:
        return spoil.half_gone(scene, angle), without
    if kind < 0.45:
        shift, apart = [(1, 0), (0, 1), (0.7, 0.7)][int(rng.integers(3))] * rng.uniform((0.4, 0.3), (0.8, 0.6))
        return spoil.torn(scene, angle, shift, apart), without
    if kind < 0.65 or (kind < 0.85 and not pair):
        color, number = str(rng.choice(list(COLORS))), int(rng.integers(len(SHAPES)))
        other = spoil.unlike(thing, number) if rng.random() < 0.6 else replace(thing, color=color)
        return spoil.joined(scene, angle, other), scene if other == thing else without
    if kind < 0.72:
        return spoil.swapped(scene, angle), scene if scene.objects[0].color == thing.color else none
    if kind < 0.78:
        return spoil.blended(scene, angle, rng.uniform(0, 0.45)), none
    if kind < 0.85:
        first, second = spoil.around_middle(scene, angle, rng.uniform(0, 0.45))
        return render(replace(scene, objects=(first, second)), SIZE), replace(scene, objects=(second,))
    image = render(scene, SIZE)
    if rng.random() < 0.5:
        return spoil.blurred(image, rng.uniform(2.6, 5)), none
    return spoil.resampled(image, int(rng.integers(3, 7))), none


def _box(rng: np.random.Generator) -> np.ndarray:
    """Draw a half, quarter or any box of the frame: bool (32, 32)."""
    inside = np.zeros((SIZE, SIZE), dtype=bool)
    half = SIZE // 2
    if rng.random() < 0.5:
        inside[half:] = True
        return inside if rng.random() < 0.5 else inside.T
    size = int(rng.integers(SIZE // 4, half + 1))
    left, top = rng.integers(0, SIZE - size + 1, 2)
    inside[top : top + size, left : left + size] = True
    return inside


def _blob(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paste a ragged, soft-edged patch of an object color."""
    v, u = np.mgrid[:SIZE, :SIZE] / SIZE - rng.uniform(0.3, 0.7, 2)[:, None, None]
    angle, radius = np.arctan2(v, u), np.hypot(u, v)
    edge = rng.uniform(0.12, 0.25)
    for wave in (1, 2, 3, 5):
        edge = edge + 0.05 * rng.uniform(-1, 1) * np.sin(wave * angle + rng.uniform(0, 2 * np.pi))
    soft = rng.uniform(0.06, 0.2)
    cover = np.clip((edge - radius) / soft + 0.5, 0, 1)[..., None] * rng.uniform(0.4, 1)
    color = np.array(COLORS[str(rng.choice(list(COLORS)))])
    return np.round(image * (1 - cover) + color * cover).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="optimizer steps of --batch images")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=48000, help="rendered training images")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    set_threads(1)
    started = time.monotonic()
    world = WorldConfig(seed=args.seed)
    assert set(world.backgrounds) == set(BACKGROUNDS)
    images = np.empty((args.images, SIZE, SIZE, 3), dtype=np.uint8)
    target = np.empty((args.images, 5, GRID, GRID), dtype=np.float16)
    with progress("render", args.images) as bar:
        for number in range(args.images):
            images[number], scene = training_image(world, number)
            things = ((SHAPES.index(o.shape), list(COLORS).index(o.color), o.center, o.diameter) for o in scene.objects)
            target[number] = targets(things, len(SHAPES))
            bar.advance()
    network = Detector()
    fit(network, images, target, steps=args.steps, batch=args.batch, lr=args.lr, seed=args.seed)
    state = weights_of(network)
    with atomic_path(args.out) as temporary:
        temporary.write_bytes(save(state))
    print(f"wrote {args.out}: {args.out.stat().st_size} bytes, {time.monotonic() - started:.0f} s")
    shipped = Detector()
    shipped.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    for name, value in measure_judge(WorldConfig(seed=args.seed), 2000, shipped.eval()).items():
        print(f"{name:24s} {value}")


if __name__ == "__main__":
    main()
