"""FID's Inception against a second construction by another route, and the resize against its definition."""

import numpy as np
import pytest
import torch
from torch import nn

from tessera.config import UserError
from tessera.pretrained.features.inception import Inception, load_inception, resize, state_shapes
from tiny.encoders import inception_state


class Conv(nn.Module):
    """conv, batch norm, relu: by torch's own layers, nothing folded."""

    def __init__(self, c_in, c_out, **how):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, bias=False, **how)
        self.bn = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


def average(x):
    """3 x 3 mean of what lies inside the frame."""
    ones = torch.ones(1, 1, *x.shape[2:])
    kernel = torch.ones(1, 1, 3, 3)
    channels = x.reshape(-1, 1, *x.shape[2:])
    return (nn.functional.conv2d(channels, kernel, padding=1) / nn.functional.conv2d(ones, kernel, padding=1)).view_as(
        x
    )


class Block(nn.Module):
    """Branches written as paths of (name, in, out, settings); the pools as in the published network."""

    def __init__(self, paths, pool=None, reduce=False):
        super().__init__()
        self.paths, self.pool, self.reduce = paths, pool, reduce
        for path in paths:
            for name, c_in, c_out, how in [step for step in path if step[0] != "fork"]:
                setattr(self, name, Conv(c_in, c_out, **how))
            for step in path:
                if step[0] == "fork":
                    for name, c_in, c_out, how in step[1:]:
                        setattr(self, name, Conv(c_in, c_out, **how))

    def forward(self, x):
        out = []
        for path in self.paths:
            y = self.pool(x) if path[0][0] == "branch_pool" else x
            for step in path:
                if step[0] == "fork":
                    y = torch.cat([getattr(self, name)(y) for name, *_ in step[1:]], 1)
                else:
                    y = getattr(self, step[0])(y)
            out.append(y)
        if self.reduce:
            out.append(nn.functional.max_pool2d(x, 3, 2))
        return torch.cat(out, 1)


def k(*size, **rest):
    height, width = size if len(size) == 2 else size * 2
    return {"kernel_size": (height, width), "padding": (height // 2, width // 2), **rest}


def valid(size):
    return {"kernel_size": size, "stride": 2}


def second_network():
    def a(c, p):
        return Block(
            [
                [("branch1x1", c, 64, k(1))],
                [("branch5x5_1", c, 48, k(1)), ("branch5x5_2", 48, 64, k(5))],
                [("branch3x3dbl_1", c, 64, k(1)), ("branch3x3dbl_2", 64, 96, k(3)), ("branch3x3dbl_3", 96, 96, k(3))],
                [("branch_pool", c, p, k(1))],
            ],
            average,
        )

    def c(w):
        double = [("branch7x7dbl_1", 768, w, k(1))]
        sizes = ((7, 1), (1, 7), (7, 1), (1, 7))
        double += [(f"branch7x7dbl_{n}", w, 192 if n == 5 else w, k(*size)) for n, size in enumerate(sizes, 2)]
        single = [("branch7x7_1", 768, w, k(1)), ("branch7x7_2", w, w, k(1, 7)), ("branch7x7_3", w, 192, k(7, 1))]
        return Block([[("branch1x1", 768, 192, k(1))], single, double, [("branch_pool", 768, 192, k(1))]], average)

    def e(c, pool):
        def fork(stem, n):
            return ("fork", (f"{stem}_{n}a", 384, 384, k(1, 3)), (f"{stem}_{n}b", 384, 384, k(3, 1)))

        double = [("branch3x3dbl_1", c, 448, k(1)), ("branch3x3dbl_2", 448, 384, k(3)), fork("branch3x3dbl", 3)]
        paths = [[("branch1x1", c, 320, k(1))], [("branch3x3_1", c, 384, k(1)), fork("branch3x3", 2)], double]
        return Block([*paths, [("branch_pool", c, 192, k(1))]], pool)

    b = Block(
        [
            [("branch3x3", 288, 384, valid(3))],
            [("branch3x3dbl_1", 288, 64, k(1)), ("branch3x3dbl_2", 64, 96, k(3)), ("branch3x3dbl_3", 96, 96, valid(3))],
        ],
        reduce=True,
    )
    seven = [("branch7x7x3_1", 768, 192, k(1)), ("branch7x7x3_2", 192, 192, k(1, 7))]
    seven += [("branch7x7x3_3", 192, 192, k(7, 1)), ("branch7x7x3_4", 192, 192, valid(3))]
    d = Block([[("branch3x3_1", 768, 192, k(1)), ("branch3x3_2", 192, 320, valid(3))], seven], reduce=True)
    layers = {
        "Conv2d_1a_3x3": Conv(3, 32, kernel_size=3, stride=2),
        "Conv2d_2a_3x3": Conv(32, 32, kernel_size=3),
        "Conv2d_2b_3x3": Conv(32, 64, **k(3)),
        "Conv2d_3b_1x1": Conv(64, 80, kernel_size=1),
        "Conv2d_4a_3x3": Conv(80, 192, kernel_size=3),
        "Mixed_5b": a(192, 32),
        "Mixed_5c": a(256, 64),
        "Mixed_5d": a(288, 64),
        "Mixed_6a": b,
        "Mixed_6b": c(128),
        "Mixed_6c": c(160),
        "Mixed_6d": c(160),
        "Mixed_6e": c(192),
        "Mixed_7a": d,
        "Mixed_7b": e(1280, average),
        "Mixed_7c": e(2048, lambda x: nn.functional.max_pool2d(x, 3, 1, 1)),
    }
    return nn.ModuleDict({**layers, "fc": nn.Linear(2048, 1008)}).eval()


def test_layer_by_layer_against_a_second_construction():
    state = inception_state()
    second = second_network()
    second.load_state_dict(state, strict=False)
    names = {name for name in second.state_dict() if not name.endswith("num_batches_tracked")}
    assert names == set(state_shapes())  # a strict map of names, both ways
    x = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        ours = Inception(state).layers(x)
        for name, layer in second.items():
            if name == "fc":
                continue
            x = layer(x)
            torch.testing.assert_close(ours[name], x, rtol=2e-3, atol=2e-4 * float(x.abs().max()))
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = nn.functional.max_pool2d(x, 3, 2)
    assert ours["pool3"].shape == (1, 2048)
    torch.testing.assert_close(ours["pool3"], x.mean((2, 3)), rtol=2e-3, atol=1e-3)
    assert float(ours["pool3"].std()) > 0.01


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("Mixed_6b.branch7x7_2.bn.bias"), "missing Mixed_6b.branch7x7_2.bn.bias"),
        (lambda s: s.update({"AuxLogits.fc.weight": torch.zeros(1)}), "unexpected AuxLogits.fc.weight"),
        (
            lambda s: s.update({"fc.weight": torch.zeros(1000, 2048)}),
            r"fc.weight \(1000, 2048\) instead of",
        ),
    ],
)
def test_another_network_s_weights_are_refused(change, words):
    state = {name: torch.zeros(shape) for name, shape in state_shapes().items()}
    change(state)
    with pytest.raises(UserError, match=words):
        Inception(state)


def test_files_that_hold_no_weights(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        load_inception(tmp_path / "none.pth")
    (tmp_path / "a.pth").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        load_inception(tmp_path / "a.pth")
    torch.save({"a": 1}, tmp_path / "b.pth")
    with pytest.raises(UserError, match="no state dict"):
        load_inception(tmp_path / "b.pth")


@pytest.mark.parametrize("size", [(64, 64), (256, 200), (299, 299), (500, 350)])
def test_the_resize_is_tensorflow_1_s(size):
    """Pixel i takes from i * size / 299, without centers, without antialias."""
    picture = np.random.default_rng(0).integers(0, 256, (3, *size)).astype(np.float64)
    expected = picture
    for axis in (1, 2):
        n = expected.shape[axis]
        matrix = np.zeros((299, n))
        for i in range(299):
            at = i * n / 299
            low = int(at)
            matrix[i, low] += 1 - (at - low)
            matrix[i, min(low + 1, n - 1)] += at - low
        expected = np.moveaxis(np.tensordot(matrix, expected, (1, axis)), 0, axis)
    found = resize(torch.from_numpy(picture).to(torch.uint8)[None])[0].numpy()
    np.testing.assert_allclose(found, (expected - 128) / 128, atol=1e-4)
    assert found.min() >= -1
    assert found.max() < 1
