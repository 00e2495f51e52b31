"""Directories of images, and the networks' features of them."""

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.evaluate.quality.captions import read_captions
from tessera.evaluate.quality.evaluate import evaluate_quality
from tessera.evaluate.quality.features import features_of, find_images
from tessera.evaluate.quality.metrics import QualityConfig
from tessera.images import read_rgb
from tessera.models.packing import packed_linears
from tessera.stages import open_stage
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
    with pytest.raises(UserError, match=r"1 of 36 files are missing, the first is 00003/samples/0001\.png"):
        evaluate_quality(tmp_path / "out", samples, reference, nets(), SMALL, cache=tmp_path / "cache")
    gone.write_bytes((samples / "00000" / "samples" / "0000.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"00003/samples/0001\.png: is not a readable image"):
        evaluate_quality(tmp_path / "out", samples, reference, nets(), SMALL, cache=tmp_path / "cache")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "empty" / "a.png")
    with pytest.raises(UserError, match="holds 1 images"):
        find_images(tmp_path / "empty", "sample")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "empty" / "b.png")
    with pytest.raises(UserError, match="has no captions for clip_score"):
        evaluate_quality(tmp_path / "out2", tmp_path / "empty", reference, nets(), SMALL, cache=tmp_path / "cache")
    found = find_images(tmp_path / "empty", "sample")
    (tmp_path / "captions.txt").write_text("one\n\ntwo\n")
    assert read_captions(found, tmp_path / "captions.txt") == ("one", "two")
    (tmp_path / "captions.jsonl").write_text('{"text": "one"}\nnot json\n')
    with pytest.raises(UserError, match="jsonl line 2 is not JSON"):
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


def image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path, format="PNG")
    return path


@pytest.mark.parametrize("name", ["c.tif", "c.GIF", "sub/c.jfif", "grid.png", "grid.old.png", "sub/deeper/c.avif"])
def test_every_image_of_a_folder_is_found(tmp_path, name):
    for each in ("a.png", "b.PNG", name):
        image(tmp_path / each)
    found = find_images(tmp_path, "sample")
    assert set(found.files) == {"a.png", "b.PNG", name}
    assert found.others == ()


@pytest.mark.parametrize("name", ["c", "c.png.part", "c.dat", "c.jpg2", "sub/c.psd", "c.dng"])
def test_an_image_of_another_name_is_refused_and_not_left_out(tmp_path, name):
    for each in ("a.png", "b.png"):
        image(tmp_path / each)
    image(tmp_path / name)
    with pytest.raises(
        UserError, match=rf"{name}: is an image that is not read by this name; give it as one of .*\.png"
    ):
        find_images(tmp_path, "reference")


def test_links_to_nothing_are_refused_and_links_to_images_followed(tmp_path):
    for each in ("s/a.png", "elsewhere/b.png"):
        image(tmp_path / each)
    (tmp_path / "s" / "b.png").symlink_to(tmp_path / "elsewhere" / "b.png")
    assert len(find_images(tmp_path / "s", "sample").files) == 2
    (tmp_path / "s" / "c.png").symlink_to(tmp_path / "elsewhere" / "c.png")
    with pytest.raises(UserError, match=r"s/c\.png: is a link to nothing"):
        find_images(tmp_path / "s", "sample")


def test_files_that_are_no_images_are_counted_and_named(tmp_path, capsys):
    """A grid next to samples/ shows what is in them; hidden files are nobody's images."""
    for i in range(12):
        path = image(tmp_path / "s" / "00000" / "samples" / f"{i:02d}.png")
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(path)
    image(tmp_path / "s" / "00000" / "grid.png")
    image(tmp_path / "s" / ".hidden.png")
    (tmp_path / "s" / "readme.txt").write_text("twelve images")
    (tmp_path / "s" / "arrays.npz").write_bytes(b"PK")
    found = find_images(tmp_path / "s", "sample")
    assert (len(found.files), found.others) == (12, ("arrays.npz", "readme.txt"))
    config = QualityConfig(metrics=("fid",))
    reference = write_samples(tmp_path / "r", 1)
    evaluate_quality(tmp_path / "out", tmp_path / "s", reference, nets(), config, cache=tmp_path / "cache")
    assert capsys.readouterr().err.endswith("s: 2 files are no images, the first is arrays.npz\n")


def test_a_drawn_or_collected_folder_has_exactly_its_images(tmp_path):
    samples = write_samples(tmp_path / "s", 0)
    lost = samples / "00003" / "samples" / "0001.png"
    lost.rename(lost.with_name("0002.png"))  # as many as before
    with pytest.raises(UserError, match=r"1 of 36 files are missing, the first is 00003/samples/0001\.png"):
        find_images(samples, "sample")
    (lost.with_name("0002.png")).rename(lost)
    image(lost.with_name("0002.png"))
    with pytest.raises(UserError, match=r"did not draw 1 of the files in it, the first is 00003/samples/0002\.png"):
        find_images(samples, "sample")
    stage = open_stage(tmp_path / "images", stage="collect", config={})
    for i in range(3):
        image(tmp_path / "images" / "fox" / f"{i}.png")
    stage.finish({"images": 3, "classes": 1})
    assert len(find_images(tmp_path / "images", "reference").files) == 3
    (tmp_path / "images" / "fox" / "1.png").unlink()
    with pytest.raises(UserError, match=r"holds 2 of its 3 images; collect it again"):
        find_images(tmp_path / "images", "reference")
