"""Directories of images, and the networks' features of them."""

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.evaluate.quality.captions import read_captions
from tessera.evaluate.quality.evaluate import evaluate_quality
from tessera.evaluate.quality.features import features_of, find_images
from tessera.images import read_rgb
from tessera.models.packing import packed_linears
from tiny.quality import SMALL, Moments, nets, write_samples


class Watched(Moments):
    """Notes how its network's layer stands while it is asked for features."""

    def features(self, batch):
        import torch

        self.packed = "forward" in vars(self.network)
        self.tf32 = torch.backends.cudnn.allow_tf32
        return super().features(batch)


def test_networks_are_packed_and_exact_while_they_look(tmp_path):
    encoder = Watched("dinov2")
    with packed_linears(encoder.network):
        expected = "forward" in vars(encoder.network)  # not on every processor
    pictures = find_images(write_samples(tmp_path / "s", 0), "samples")
    assert features_of(pictures, {"dinov2": encoder}, tmp_path / "work", 5, "round", "quality", 256) is not None
    assert encoder.packed == expected
    assert not encoder.tf32
    assert "forward" not in vars(encoder.network)


def test_bad_folders_name_what_is_wrong(tmp_path):
    reference = write_samples(tmp_path / "r", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds 0 images"):
        find_images(tmp_path / "empty", "sample")
    with pytest.raises(UserError, match="no such directory of sample"):
        find_images(tmp_path / "none", "sample")
    samples = write_samples(tmp_path / "s", 0)
    gone = samples / "00003" / "samples" / "0001.png"
    gone.unlink()
    with pytest.raises(UserError, match="holds 23 of its 24 images"):
        evaluate_quality(tmp_path / "out", samples, reference, nets(), SMALL)
    gone.write_bytes((samples / "00000" / "samples" / "0000.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"00003/samples/0001\.png: is not a readable image"):
        evaluate_quality(tmp_path / "out", samples, reference, nets(), SMALL, cache=tmp_path / "cache")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "empty" / "a.png")
    with pytest.raises(UserError, match="holds 1 images"):
        find_images(tmp_path / "empty", "sample")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "empty" / "b.png")
    with pytest.raises(UserError, match="has no captions for clip_score"):
        evaluate_quality(tmp_path / "out2", tmp_path / "empty", reference, nets(), SMALL)
    found = find_images(tmp_path / "empty", "sample")
    (tmp_path / "captions.txt").write_text("one\n\ntwo\n")
    assert read_captions(found, tmp_path / "captions.txt") == ("one", "two")
    (tmp_path / "captions.jsonl").write_text('{"text": "one"}\nnot json\n')
    with pytest.raises(UserError, match="jsonl:2: is not JSON"):
        read_captions(found, tmp_path / "captions.jsonl")
    (tmp_path / "captions.txt").write_text("one\n")
    with pytest.raises(UserError, match="has 1 lines for 2 images"):
        read_captions(found, tmp_path / "captions.txt")
    np.save(tmp_path / "empty" / "c.npy", np.ones((4, 4)))
    with pytest.raises(UserError, match=r"c\.npy: must be an image"):
        read_rgb(tmp_path / "empty" / "c.npy")


def test_hidden_folders_are_left_out_and_links_to_folders_refused(tmp_path):
    for place in ("s/class", "s/.ipynb_checkpoints", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / place / f"{i}.png")
    assert find_images(tmp_path / "s", "sample").files == ("class/0.png", "class/1.png")
    (tmp_path / "s" / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"s/linked: is a link; put the directory itself there"):
        find_images(tmp_path / "s", "sample")
