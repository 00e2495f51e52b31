"""The training of a detector on rendered images: targets, disturbances, loss, and garbage that shows no object."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessera.evaluate.miniature.color_objects import SIZE
from tessera.evaluate.miniature.detector import GRID, Detector
from tessera.progress import progress
from tessera.randomness import philox

Found = tuple[int, int, tuple[float, float], float]
"""Class, color, center and diameter of an object in an image."""
POSITIVE, IGNORED = 1.0, 1.6  # cells nearer than this to a center are the object's; those up to IGNORED are nobody's


def noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make noise in cells of 1 to 8 pixels, around the image's mean color or any."""
    cells = SIZE // int(rng.choice([1, 2, 4, 8]))
    mean = image.mean((0, 1)) if rng.random() < 0.5 else rng.uniform(0, 255, 3)
    gray = rng.normal(0, 1, (cells, cells, 1)) if rng.random() < 0.3 else rng.normal(0, 1, (cells, cells, 3))
    grains = np.kron(gray * rng.uniform(10, 120), np.ones((SIZE // cells, SIZE // cells, 1)))
    return np.clip(mean + grains, 0, 255).astype(np.uint8)


def shuffled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffle the 4 px patches of an image."""
    n = SIZE // 4
    patches = image.reshape(n, 4, n, 4, 3).transpose(0, 2, 1, 3, 4).reshape(n * n, 4, 4, 3)
    return rng.permutation(patches).reshape(n, n, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(SIZE, SIZE, 3)


def targets(objects: Iterable[Found], nothing: int) -> np.ndarray:
    """Return float32 (5, 16, 16): class (-1 = ignored), color, offset x and y, log(2 diameter).

    objects: number of its class and of its color (-1 = ignored), center and diameter as fractions of the frame.
    nothing: the number of the class of cells without an object.
    """
    out = np.zeros((5, GRID, GRID), dtype=np.float32)
    out[0] = nothing
    axis = np.arange(GRID) + 0.5
    for label, color, center, diameter in objects:
        dx, dy = (center[0] * GRID - axis)[None, :], (center[1] * GRID - axis)[:, None]
        distance = np.hypot(dx, dy)
        mine = distance < POSITIVE
        out[0][(distance < IGNORED) & (out[0] == nothing)] = -1
        for layer, value in enumerate((label, color, dx, dy, np.log(2 * diameter))):
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
    mine = (label >= 0) & (label < len(network.classes))
    number = mine.sum().clamp(min=1)
    loss = F.cross_entropy(shape, label, ignore_index=-1, reduction="sum") / number
    colored = mine & (target[:, 1] >= 0)
    if bool(colored.any()):
        loss = loss + F.cross_entropy(color.permute(0, 2, 3, 1)[colored], target[:, 1][colored].long())
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
        network.head.bias[len(network.classes)] = 4.0


def fit(
    network: Detector,
    images: np.ndarray,
    target: np.ndarray,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    in_bf16: bool = False,
    clean: float = 0.0,
) -> None:
    """Train `network` on uint8 images (N, 32, 32, 3) and their `targets` (N, 5, 16, 16), by AdamW and one cycle.

    steps: of `batch` images. in_bf16: convolutions and products are. clean: share of each batch that is not
    disturbed. The result is a function of these and the seed on one thread.
    """
    generator = torch.Generator().manual_seed(seed)
    initialize(network, generator)
    network.to(memory_format=torch.channels_last)  # type: ignore
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.02)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1)
    with progress("train the judge", steps, unit="steps") as bar:
        for step in range(steps):
            rows = philox(seed, "judge/train/batch", step).integers(0, len(images), batch)
            seen = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float() / 127.5 - 1
            few = round(clean * batch)
            seen = torch.cat([seen[:few], disturb(seen[few:], generator)]).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
                loss = loss_of(network, seen, torch.from_numpy(target[rows]).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            plan.step()
            bar.advance(loss=round(float(loss.detach()), 3))


def weights_of(network: Detector) -> dict[str, Tensor]:
    """Return the weights as they are stored and judged by: in fp16."""
    return {
        name: value.half().contiguous() for name, value in network.state_dict().items() if value.is_floating_point()
    }
