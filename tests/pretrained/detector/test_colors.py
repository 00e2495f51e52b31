"""Colors of GenEval's objects: crops on gray, and the nearest of three averaged sentences, by formulas written out."""

import numpy as np
import pytest
import torch
from PIL import Image

from tessera.config import UserError
from tessera.pretrained.detector.colors import TEMPLATES, cut_out, load_colors
from tiny.judges import save_clip


def test_outside_the_mask_is_999():
    image = np.full((10, 12, 3), 200, np.uint8)
    mask = np.zeros((10, 12), bool)
    mask[2:5, 3:6] = True
    out = np.asarray(cut_out(image, (2, 1, 7, 6), mask))
    assert out.shape == (5, 5, 3)
    gray = (out == 0x99).all(-1)
    assert np.array_equal(~gray, mask[1:6, 2:7])
    assert (out[~gray] == 200).all()


def test_colors_are_the_nearest_of_three_averaged_sentences(tmp_path):
    names = ("red", "green", "blue")
    clip = load_colors(str(save_clip(tmp_path / "clip")), names)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (24, 40, 3), dtype=np.uint8)
    mask = np.ones((24, 40), bool)
    objects = [((0, 0, 16, 16), mask), ((20, 4, 40, 20), mask), ((3, 3, 30, 9), mask)]
    got = clip.name(image, objects, "dog")
    for (box, _), color in zip(objects, got):
        crop = Image.fromarray(image).crop(box)
        scale = 16 / min(crop.size)
        size = tuple(int(side * scale) for side in crop.size)
        crop = crop.resize(size, Image.Resampling.BICUBIC)
        left, top = (crop.width - 16) // 2, (crop.height - 16) // 2
        pixels = np.asarray(crop.crop((left, top, left + 16, top + 16))) / 255
        mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        batch = torch.tensor((pixels - mean) / std, dtype=torch.float32).permute(2, 0, 1)[None]
        with torch.no_grad():
            seen = clip.model.visual_projection(clip.model.vision_model(pixel_values=batch).pooler_output)
            scores = []
            for name in names:
                directions = []
                for template in TEMPLATES:
                    tokens = clip.tokenizer([template.format(color=name, name="dog")], return_tensors="pt")
                    text = clip.model.text_projection(clip.model.text_model(**tokens).pooler_output)
                    directions.append(text / text.norm())
                mean_direction = torch.stack(directions).mean(0)
                scores.append(torch.nn.functional.cosine_similarity(seen, mean_direction).item())
        assert color == names[int(np.argmax(scores))]
    assert clip.name(image, [], "dog") == []


def test_what_cannot_be_had(tmp_path):
    with pytest.raises(UserError, match=r"clip: .* there is no such folder"):
        load_colors(str(tmp_path / "none"), ("red",))
