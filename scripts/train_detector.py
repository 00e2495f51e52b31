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
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from tessera.devices import set_threads
from tessera.evaluate.miniature import spoil
from tessera.evaluate.miniature.calibrate import measure_judge
from tessera.evaluate.miniature.color_objects import SIZE
from tessera.evaluate.miniature.detector import GRID, Detector
from tessera.evaluate.miniature.shipped import WEIGHTS
from tessera.files import atomic_path
from tessera.miniature import BACKGROUNDS, COLORS, SHAPES, WorldConfig, draw_composed, render
from tessera.progress import progress
from tessera.randomness import philox
from tessera.records import Scene

OUT = Path(__file__).parents[1] / "src" / "tessera" / "assets" / WEIGHTS
POSITIVE, IGNORED = 1.0, 1.6  # cells nearer than this to a center are the object's; those up to IGNORED are nobody's


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
        garbage = (_blob, _noise, _shuffled)[int(rng.integers(3))]
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


def _noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make noise in cells of 1 to 8 pixels, around the image's mean color or any."""
    cells = SIZE // int(rng.choice([1, 2, 4, 8]))
    mean = image.mean((0, 1)) if rng.random() < 0.5 else rng.uniform(0, 255, 3)
    gray = rng.normal(0, 1, (cells, cells, 1)) if rng.random() < 0.3 else rng.normal(0, 1, (cells, cells, 3))
    noise = np.kron(gray * rng.uniform(10, 120), np.ones((SIZE // cells, SIZE // cells, 1)))
    return np.clip(mean + noise, 0, 255).astype(np.uint8)


def _shuffled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle the 4 px patches of an image."""
    n = SIZE // 4
    patches = image.reshape(n, 4, n, 4, 3).transpose(0, 2, 1, 3, 4).reshape(n * n, 4, 4, 3)
    return rng.permutation(patches).reshape(n, n, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(SIZE, SIZE, 3)


def targets(scene: Scene) -> np.ndarray:
    """Return float32 (5, 16, 16): shape class (8 = nothing, -1 = ignored), color, offset x and y, log(2 diameter)."""
    out = np.zeros((5, GRID, GRID), dtype=np.float32)
    out[0] = len(SHAPES)
    axis = np.arange(GRID) + 0.5
    for thing in scene.objects:
        dx, dy = (thing.center[0] * GRID - axis)[None, :], (thing.center[1] * GRID - axis)[:, None]
        distance = np.hypot(dx, dy)
        mine = distance < POSITIVE
        out[0][(distance < IGNORED) & (out[0] == len(SHAPES))] = -1
        for layer, value in enumerate(
            (SHAPES.index(thing.shape), list(COLORS).index(thing.color), dx, dy, np.log(2 * thing.diameter))
        ):
            out[layer][mine] = np.broadcast_to(value, (GRID, GRID))[mine]
    return out


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Disturb images (B, 3, 32, 32) in [-1, 1] as a small diffusion model might draw: softer, noisier, off in tone."""
    batch = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    # Bent, each patch of 4 pixels a little out of place, taken from up to two pixels away, and with ragged edges.
    bend = torch.randn(batch, 2, 7, 7, generator=generator) * uniform(-0.03, 0.07, 1, 1, 1).clamp(min=0)
    slip = torch.randn(batch, 2, SIZE // 4, SIZE // 4, generator=generator) * uniform(-0.04, 0.06, 1, 1, 1).clamp(min=0)
    ragged = torch.randn(batch, 2, SIZE, SIZE, generator=generator) * uniform(-0.04, 0.05, 1, 1, 1).clamp(min=0)
    field = F.interpolate(bend, size=SIZE, mode="bilinear", align_corners=False) + F.interpolate(slip, size=SIZE)
    field = field + ragged
    field = field.permute(0, 2, 3, 1)  # (B, 32, 32, 2)
    straight = F.affine_grid(torch.eye(2, 3).expand(batch, 2, 3), [batch, 3, SIZE, SIZE], align_corners=False)
    soft = F.grid_sample(images, straight + field, padding_mode="border", align_corners=False)
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    blur = (kernel[:, None] * kernel[None, :]).expand(3, 1, 3, 3)
    for _ in range(2):
        once = F.conv2d(F.pad(soft, (1, 1, 1, 1), mode="replicate"), blur, groups=3)
        soft = soft + (once - soft) * uniform(-0.8, 1, 1, 1, 1).clamp(min=0)
    # The grid of patches that a transformer leaves.
    tile = torch.randn(batch, 3, 4, 4, generator=generator) * uniform(-0.03, 0.06, 1, 1, 1).clamp(min=0)
    soft = soft + tile.repeat(1, 1, SIZE // 4, SIZE // 4)
    noise = torch.randn(images.shape, generator=generator) * uniform(-0.04, 0.08, 1, 1, 1).clamp(min=0)
    coarse = torch.randn(batch, 3, 8, 8, generator=generator) * uniform(-0.05, 0.08, 1, 1, 1).clamp(min=0)
    stain = F.interpolate(coarse, size=SIZE, mode="bilinear")
    return soft * uniform(0.85, 1.1, 3, 1, 1) + uniform(-0.08, 0.08, 3, 1, 1) + noise + stain


def loss_of(network: Detector, images: Tensor, target: Tensor) -> Tensor:
    """Return cross-entropy of shape and color + absolute error of geometry; the latter two on the objects' cells."""
    shape, color, geometry = network(images)
    label = target[:, 0].long()
    mine = (label >= 0) & (label < len(SHAPES))
    number = mine.sum().clamp(min=1)
    loss = F.cross_entropy(shape, label, ignore_index=-1, reduction="sum") / number
    loss = loss + F.cross_entropy(color.permute(0, 2, 3, 1)[mine], target[:, 1][mine].long())
    return loss + (geometry - target[:, 2:]).abs().permute(0, 2, 3, 1)[mine].mean()


def initialize(network: Detector, generator: torch.Generator) -> None:
    """Apply He initialization of the convolutions; the head starts small and sure that there is nothing."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(network.head.weight, std=0.01, generator=generator)
    assert network.head.bias is not None
    with torch.no_grad():
        network.head.bias[len(SHAPES)] = 4.0


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
            target[number] = targets(scene)
            bar.advance()

    generator = torch.Generator().manual_seed(args.seed)
    network = Detector()
    initialize(network, generator)
    network = network.to(memory_format=torch.channels_last)  # type: ignore
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=0.02)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.steps, pct_start=0.1)
    with progress("train", args.steps, unit="steps") as bar:
        for step in range(args.steps):
            rows = philox(args.seed, "judge/train/batch", step).integers(0, args.images, args.batch)
            clean = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
            loss = loss_of(network, disturb(clean, generator), torch.from_numpy(target[rows]).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            plan.step()
            bar.advance(loss=round(float(loss.detach()), 3))

    # The weights are judged as they are shipped: in fp16.
    state = {
        name: value.half().contiguous() for name, value in network.state_dict().items() if value.is_floating_point()
    }
    with atomic_path(args.out) as temporary:
        temporary.write_bytes(save(state))
    print(f"wrote {args.out}: {args.out.stat().st_size} bytes, {time.monotonic() - started:.0f} s")
    shipped = Detector()
    shipped.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    for name, value in measure_judge(WorldConfig(seed=args.seed), 2000, shipped.eval()).items():
        print(f"{name:24s} {value}")


if __name__ == "__main__":
    main()
