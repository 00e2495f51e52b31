"""CLIP: transformers' own on short captions, both cuts of long ones, and CMMD's way to resize."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel

from tessera.config import UserError
from tessera.pretrained.features.clip import load_clip, load_preference
from tiny.encoders import save_clip, save_dino

LONG = "a red fox sits on the snow next to a small house of gray stone under a pale sky "


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_clip_is_transformers_own_on_short_captions(clip_folder):
    encoder = load_clip(str(clip_folder))
    model, tokenizer = CLIPModel.from_pretrained(clip_folder), AutoTokenizer.from_pretrained(clip_folder)
    texts = ["a fox", "a red fox on snow", ""]
    with torch.inference_mode():
        rows = [model.get_text_features(**tokenizer([text], return_tensors="pt")) for text in texts]
    expected = torch.cat([row if isinstance(row, torch.Tensor) else row.pooler_output for row in rows])
    found = encoder.captions(texts)
    np.testing.assert_allclose(found.features, expected, atol=1e-5)
    assert found.truncated == 0
    np.testing.assert_allclose(encoder.captions(texts, batch=1).features, found.features, atol=1e-5)


def test_long_captions_keep_their_end_token_and_differ(clip_folder):
    """Cut off, every long caption has the embedding of the start token alone."""
    texts = [LONG * 2, "b" + LONG * 2, "the end of " + LONG * 2]
    kept, cut = (load_clip(str(clip_folder), cut=how).captions(texts) for how in ("keep-end", "legacy-cut"))
    assert kept.truncated == cut.truncated == 3
    assert np.abs(cut.features - cut.features[0]).max() < 1e-6
    assert min(np.abs(kept.features[i] - kept.features[j]).max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-3
    model, tokenizer = CLIPModel.from_pretrained(clip_folder), AutoTokenizer.from_pretrained(clip_folder)
    with torch.inference_mode():
        expected = model.get_text_features(**tokenizer(texts[:1], truncation=True, max_length=77, return_tensors="pt"))
    expected = expected if isinstance(expected, torch.Tensor) else expected.pooler_output
    np.testing.assert_allclose(kept.features[:1], expected, atol=1e-5)
    mixed = load_clip(str(clip_folder), cut="legacy-cut").captions([texts[0], "a fox"])
    np.testing.assert_allclose(mixed.features[0], cut.features[0], atol=1e-5)


def test_cmmd_sees_the_middle_square_by_pillow(clip_folder):
    """As its published code reads images: the square is cut out, then Pillow's bicubic, which smooths to shrink."""
    encoder = load_clip(str(clip_folder), crop_first=True)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 201, 3), dtype=np.uint8)
    square = Image.fromarray(np.ascontiguousarray(pixels[:, 55:145])).resize((32, 32), Image.Resampling.BICUBIC)
    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    expected = (np.asarray(square) / 255 - mean) / deviation
    np.testing.assert_allclose(encoder.prepare(pixels).permute(1, 2, 0), expected, atol=1e-5)
    assert encoder.resizing == "middle square, Pillow bicubic to 32 x 32"
    wide = load_clip(str(clip_folder)).prepare(pixels).permute(1, 2, 0)  # CLIPScore's: Pillow's, then cut
    assert np.abs(wide.numpy() - expected).max() > 0.01


def test_a_folder_of_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"clip: .* is dinov2"):
        load_clip(str(save_dino(tmp_path / "dino")))
    with pytest.raises(UserError, match=r"clip: .* has no config\.json"):
        load_clip(str(tmp_path))


def test_preference_scores_are_the_published_code_s(clip_folder, tmp_path, monkeypatch):
    """PickScore is transformers' logit of image and text, HPSv2 100 cos; without a tokenizer, CLIP's is taken."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), AutoTokenizer.from_pretrained(clip_folder)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    model.save_pretrained(tmp_path / "pick")
    monkeypatch.setattr("tessera.pretrained.features.clip.fetch_repository", lambda *_: clip_folder)
    pick, hps = (load_preference(str(tmp_path / "pick"), by_logits=by_logits) for by_logits in (True, False))
    with torch.inference_mode():
        image = pick.prepare(pixels)[None]
        logit = model(pixel_values=image, **tokenizer(["a red fox"], return_tensors="pt")).logits_per_image.item()
    for encoder, expected in ((pick, logit), (hps, 100 * logit / np.exp(3))):
        a, b = encoder.features(image)[0], encoder.captions(["a red fox"]).features[0]
        assert encoder.scale * (a @ b) / np.linalg.norm(a) / np.linalg.norm(b) == pytest.approx(expected, rel=1e-4)
