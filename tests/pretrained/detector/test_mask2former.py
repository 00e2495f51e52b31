"""Resizing and post-processing of GenEval's detector, against formulas written out with loops."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tessera.config import UserError
from tessera.pretrained.detector.mask2former import (
    MEAN,
    STD,
    ObjectDetector,
    box_of,
    load_detector,
    normalize,
    pad,
    postprocess,
    resize,
    resized_size,
)
from tiny.judges import save_clip, save_detector


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((256, 256), (800, 800)),
        ((512, 512), (800, 800)),
        ((1024, 1024), (800, 800)),
        ((480, 640), (800, 1067)),  # 1066.67
        ((333, 1000), (444, 1333)),  # the long side decides: 443.9
        ((1000, 333), (1333, 444)),
        ((600, 1000), (800, 1333)),  # 1333.33 would be too long by a third of a pixel: 799.8 x 1333
    ],
)
def test_resized_size(size, resized):
    assert resized_size(*size) == resized


def test_resize_is_bilinear_between_pixel_centres():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (300, 420, 3), dtype=np.uint8)
    height, width = resized_size(300, 420)
    out = resize(image).numpy()
    assert out.shape == (3, height, width)
    for y, x in [(0, 0), (height - 1, width - 1), (117, 401), (540, 3)]:
        sy, sx = ((y + 0.5) * 300 / height - 0.5, (x + 0.5) * 420 / width - 0.5)
        sy, sx = max(sy, 0.0), max(sx, 0.0)
        y0, x0 = int(sy), int(sx)
        y1, x1 = min(y0 + 1, 299), min(x0 + 1, 419)
        fy, fx = sy - y0, sx - x0
        corner = image.astype(float)
        value = (1 - fy) * ((1 - fx) * corner[y0, x0] + fx * corner[y0, x1]) + fy * (
            (1 - fx) * corner[y1, x0] + fx * corner[y1, x1]
        )
        np.testing.assert_allclose(out[:, y, x], value, atol=0.51)  # rounded to whole levels
        assert np.array_equal(out[:, y, x], np.round(out[:, y, x]))


def test_a_smaller_picture_is_not_smoothed():
    stripes = np.zeros((3200, 3200, 3), np.uint8)
    stripes[:, 1::4] = 255  # every fourth column; a sample lies between columns 1 and 2, antialiasing would give 64
    assert set(np.unique(resize(stripes).numpy())) == {128.0}


def test_normalize_and_pad():
    """As mmdetection 2's Pad(size_divisor=32, pad_val=128) and then Normalize, which GenEval's config has."""
    pixels = torch.full((3, 10, 40), 200.0)
    out = normalize(pad(pixels))
    assert out.shape == (3, 32, 64)
    for channel in range(3):
        assert out[channel, 9, 39].item() == pytest.approx((200 - MEAN[channel]) / STD[channel], rel=1e-6)
        gray = torch.tensor((128 - MEAN[channel]) / STD[channel])
        torch.testing.assert_close(out[channel, 10:], gray.expand(22, 64))
        torch.testing.assert_close(out[channel, :, 40:], gray.expand(32, 24))


def test_the_detector_sees_gray_beside_the_picture():
    class Sees(torch.nn.Module):
        def forward(self, pixel_values):
            self.seen = pixel_values
            return SimpleNamespace(
                class_queries_logits=torch.zeros(1, 1, 81), masks_queries_logits=torch.zeros(1, 1, 8, 8)
            )

    sees = Sees()
    ObjectDetector(sees).detect([np.zeros((480, 640, 3), np.uint8)], min_score=0.9)
    assert sees.seen.shape == (1, 3, 800, 1088)  # 1067 wide
    levels = sees.seen[0].double() * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    torch.testing.assert_close(levels[:, :, 1067:], torch.full((3, 800, 21), 128.0).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(levels[:, :, :1067], torch.zeros(3, 800, 1067).double(), atol=1e-4, rtol=0)


def masks_of(*boxes, size=(32, 32), low=-8.0, high=8.0):
    """Mask logits (N, h, w), high inside each box (left, top, right, bottom)."""
    out = torch.full((len(boxes), *size), low)
    for mask, (left, top, right, bottom) in zip(out, boxes):
        mask[top:bottom, left:right] = high
    return out


def test_postprocess_by_hand():
    classes = torch.full((3, 81), -20.0)
    classes[0, 16] = 5.0
    classes[1, 2], classes[1, 5] = 3.0, 3.0  # one query, two classes
    classes[2, 80] = 9.0  # nothing
    masks = masks_of((4, 8, 12, 24), (0, 0, 32, 32), (0, 0, 9, 9))
    whole = {"padded": (32, 32), "resized": (32, 32), "original": (32, 32)}
    found = postprocess(classes, masks, min_score=0.3, **whole)
    assert [item.class_index for item in found] == [16, 2, 5]
    sure = 1 / (1 + np.exp(-8.0))
    assert [item.score for item in found] == pytest.approx([sure, sure / 2, sure / 2], rel=1e-4)
    assert found[0].box == (4, 8, 12, 24)  # the last pixel of the mask + 1
    assert found[0].mask.sum() == 8 * 16
    assert found[1].box == (0, 0, 32, 32)
    assert [item.class_index for item in postprocess(classes, masks, min_score=0.6, **whole)] == [16]


def test_score_is_the_mean_sureness_inside_the_mask():
    classes = torch.full((1, 81), -30.0)
    classes[0, 0] = 10.0
    masks = torch.full((1, 4, 4), -5.0)
    masks[0, 1, 1], masks[0, 1, 2] = 2.0, 0.5
    found = postprocess(classes, masks, padded=(4, 4), resized=(4, 4), original=(4, 4), min_score=0.3)
    expected = (1 / (1 + np.exp(-2.0)) + 1 / (1 + np.exp(-0.5))) / (2 + 1e-6)
    assert found[0].score == pytest.approx(expected, rel=1e-5)


def test_masks_lose_the_padding_and_take_the_originals_size():
    classes = torch.full((1, 81), -30.0)
    classes[0, 7] = 10.0
    # Half of the padded width is padding; the mask covers the right half of the image and the padding.
    masks = masks_of((8, 0, 32, 16), size=(16, 32))
    found = postprocess(classes, masks, padded=(64, 128), resized=(64, 64), original=(100, 200), min_score=0.3)
    left, top, right, bottom = found[0].box
    assert (top, right, bottom) == (0, 200, 100)
    assert abs(left - 100) <= 2
    assert found[0].mask.shape == (100, 200)


def test_an_empty_mask_is_no_object():
    classes = torch.full((1, 81), -30.0)
    classes[0, 7] = 10.0
    whole = {"padded": (8, 8), "resized": (8, 8), "original": (8, 8)}
    assert postprocess(classes, torch.full((1, 8, 8), -1.0), min_score=0.0, **whole) == []


def test_at_most_a_hundred_pairs():
    classes = torch.zeros(4, 81)  # 320 pairs, equally sure
    whole = {"padded": (8, 8), "resized": (8, 8), "original": (8, 8)}
    assert len(postprocess(classes, torch.full((4, 8, 8), 9.0), min_score=0.0, **whole)) == 100


def test_box_of():
    mask = np.zeros((6, 9), bool)
    assert box_of(mask) == (0, 0, 0, 0)
    mask[2, 3] = True
    assert box_of(mask) == (3, 2, 4, 3)


def test_a_mirrored_picture_gives_mirrored_boxes_of_masks():
    classes = torch.full((2, 81), -20.0)
    classes[0, 16] = classes[1, 15] = 6.0
    masks = masks_of((2, 8, 10, 24), (20, 8, 30, 24))
    whole = {"padded": (32, 32), "resized": (32, 32), "original": (32, 32), "min_score": 0.3}
    there, mirrored = postprocess(classes, masks, **whole), postprocess(classes, masks.flip(-1), **whole)
    for a, b in zip(there, mirrored):
        assert (b.box[0], b.box[2]) == (32 - a.box[2], 32 - a.box[0])
        assert np.array_equal(a.mask[:, ::-1], b.mask)


def test_detector_of_a_folder(tmp_path):
    found = load_detector(save_detector(tmp_path / "detector"))
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    out = found.detect(list(images), min_score=0.0)
    assert len(out) == 2
    assert all(item.mask.shape == (48, 64) and 0 <= item.class_index < 80 for item in out[0])
    scores = [item.score for item in out[0]]
    assert scores == sorted(scores, reverse=True)
    (tmp_path / "detector" / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds 0 files of weights"):
        load_detector(tmp_path / "detector")


def test_what_is_no_detector(tmp_path):
    with pytest.raises(UserError, match="is clip, wanted is a Mask2Former of 80 classes"):
        load_detector(save_clip(tmp_path / "clip"))
