"""The paper's prompts for LLaVA, and the images that are shown with them."""

import numpy as np
from PIL import Image

from tessera.cutmix import placement_at, windows_of
from tessera.pretrained.captioner.prompt import MIX_PROMPT, PROMPT, make_question, quarter_of

IMAGE = np.asarray(
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize((64, 64), 3)
)


def test_the_quarter_that_overlaps_the_pasted_box_most():
    for pattern in ("quarter", "ninth", "sixteenth"):
        for index in range(0, len(windows_of(pattern, 256)), 7 if pattern == "sixteenth" else 1):
            placement = placement_at(pattern, 256, index)
            inside = np.zeros((256, 256), bool)
            left, top, right, bottom = placement.box
            inside[top:bottom, left:right] = True
            area = inside.reshape(2, 128, 2, 128).sum((1, 3))
            assert quarter_of(placement) == np.unravel_index(area.argmax(), (2, 2))
        if pattern == "sixteenth":
            assert len(windows_of(pattern, 256)) > 1000


def test_questions_of_the_paper():
    plain = make_question(IMAGE, None)
    assert (plain.prompt, len(plain.images)) == ("Describe this image", 1) == (PROMPT, 1)
    half = make_question(IMAGE, placement_at("half", 64, 0))
    assert (half.prompt, len(half.images)) == (MIX_PROMPT, 1)
    assert MIX_PROMPT.startswith("Describe this image. Consider all the objects in the picture. Describe them")
    assert MIX_PROMPT.endswith("Do not consider the image as a composite of images. The image is a single scene image")
    corner = make_question(IMAGE, placement_at("quarter", 64, 3), side=32)
    assert corner.prompt == MIX_PROMPT
    assert np.array_equal(corner.images[1], IMAGE[32:, 32:])
