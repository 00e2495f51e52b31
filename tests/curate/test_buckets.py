"""buckets: sizes of one area, and an image's bucket from collect to the encoded set."""

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.curate.buckets import AREA, MOST_RATIO, bucket_of, bucket_sizes
from tessera.encoded.store import open_encoded
from tessera.files import read_table
from tessera.stages import read_manifest
from tiny.commands import call

SIZES = {"wide": (200, 100), "square": (96, 96), "tall": (60, 100), "small": (50, 30)}


@pytest.mark.parametrize("side", [64, 256, 512])
def test_sizes_are_of_one_area_and_mirrored(side):
    sizes = bucket_sizes(side)
    assert sizes[0] == (side, side)
    assert {(h, w) for w, h in sizes} == set(sizes)
    assert len(set(sizes)) == len(sizes) > 2
    for width, height in sizes:
        assert width % 16 == height % 16 == 0
        assert max(width / height, height / width) <= MOST_RATIO
        assert abs(width * height / side**2 - 1) <= AREA


def test_sizes_of_256_px():
    wide = [size for size in bucket_sizes(256) if size[0] > size[1]]
    assert wide == [(272, 240), (288, 224), (304, 208), (320, 208), (336, 192), (352, 192)]


def test_the_nearest_ratio_counts_however_large_the_image_is():
    sizes = bucket_sizes(256)
    for width, height in sizes:
        assert sizes[bucket_of(7 * width, 7 * height, sizes)] == (width, height)
    assert sizes[bucket_of(4000, 100, sizes)] == (352, 192)
    assert sizes[bucket_of(100, 4000, sizes)] == (192, 352)
    assert sizes[bucket_of(1000, 1001, sizes)] == (256, 256)


@pytest.mark.parametrize(("side", "message"), [(250, "size is 250; buckets need a multiple of 16, such as 240"),
                                               (32, "size is 32, which has no bucket but the square")])  # fmt: skip
def test_sides_without_buckets(side, message):
    with pytest.raises(UserError, match=message):
        bucket_sizes(side)


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        (tmp_path / "photos" / "cat").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height), 3).save(tmp_path / "photos" / "cat" / f"{name}.png")
    return tmp_path / "photos"


def test_crops_are_the_center_of_the_image_scaled_to_cover_its_bucket(photos, tmp_path, capsys):
    """80 x 48 and its mirror image are the buckets of 64 px besides the square."""
    images = tmp_path / "images"
    assert call("collect", photos, "--out", images, "--size", 64, "--buckets") == 0
    assert "1 of 4 images are smaller than their bucket and were enlarged" in capsys.readouterr().err
    # Scaled by hand: the side that has to shrink least decides, the other is cut evenly.
    expected = {"wide": ((96, 48), (8, 0)), "square": ((64, 64), (0, 0)), "tall": ((48, 80), (0, 0)),
                "small": ((80, 48), (0, 0))}  # fmt: skip
    sizes = {"wide": (80, 48), "square": (64, 64), "tall": (48, 80), "small": (80, 48)}
    for name, (scaled, (left, top)) in expected.items():
        width, height = sizes[name]
        whole = Image.open(photos / "cat" / f"{name}.png").resize(scaled, Image.Resampling.BICUBIC)
        wanted = np.asarray(whole.crop((left, top, left + width, top + height)))
        assert np.array_equal(np.asarray(Image.open(images / "cat" / f"{name}.png")), wanted), name
    table = read_table(images / "images.parquet").to_pydict()
    assert dict(zip(table["key"], zip(table["width"], table["height"]))) == {f"cat/{k}": v for k, v in SIZES.items()}


def test_encoded_latents_are_those_of_the_crops(photos, tmp_path):
    images, captions, encoded = tmp_path / "images", tmp_path / "captions", tmp_path / "encoded"
    assert call("collect", photos, "--out", images, "--size", 64, "--buckets") == 0
    assert call("caption", images, "--out", captions, "--captioner", "aio") == 0
    assert call("encode", images, captions, "--out", encoded) == 0
    store = open_encoded(encoded)
    assert store.latent_shape == (48, 16, 16)
    assert read_manifest(encoded).facts["buckets"] == {
        "64x64": 1,
        "48x80": 1,
        "80x48": 2,
    }
    for number, bucket in enumerate(store.buckets.tolist()):
        record = store[number]
        pixels = np.asarray(Image.open(images / f"{record.key}.png"))
        height, width = pixels.shape[:2]
        assert record.latent_mean.shape == store.shapes[bucket] == (48, height // 4, width // 4)
        blocks = pixels.reshape(height // 4, 4, width // 4, 4, 3).transpose(4, 1, 3, 0, 2)
        assert np.array_equal(
            np.rint((record.latent_mean.astype(float) + 1) * 127.5), blocks.reshape(48, *blocks.shape[3:])
        )
    store.verify()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--size", 64, "--fast"), "fast: decodes near the side of a square; leave out --fast or --buckets"),
        (("--size", 72), "size is 72; buckets need a multiple of 16, such as 64"),
    ],
)
def test_what_does_not_go_with_buckets(photos, tmp_path, capsys, words, message):
    assert call("collect", photos, "--out", tmp_path / "images", "--buckets", *words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "images").exists()


def test_cutmix_refuses_them(photos, tmp_path, capsys):
    assert call("collect", photos, "--out", tmp_path / "images", "--size", 64, "--buckets") == 0
    assert call("augment", tmp_path / "images", "--out", tmp_path / "recipe") == 2
    assert "has crops of several aspect ratios, and CutMix pastes squares into squares" in capsys.readouterr().err


def test_without_buckets_the_manifest_does_not_name_them(photos, tmp_path):
    assert call("collect", photos, "--out", tmp_path / "images", "--size", 64) == 0
    assert "buckets" not in (tmp_path / "images" / "manifest.json").read_text()


def test_from_a_folder_to_wide_images(photos, tmp_path, monkeypatch):
    """All verbs on the way, previews of each directory included."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(PRESET)
    assert call("collect", photos, "--out", "images", "--size", 64, "--buckets") == 0
    assert call("caption", "images", "--out", "captions", "--captioner", "aio") == 0
    assert call("encode", "images", "captions", "--out", "encoded") == 0
    for directory in ("images", "captions", "encoded"):
        assert call("preview", directory, "--out", f"{directory}.html") == 0
    assert call("train", "own.py:tiny", "--plain", "encoded", "--out", "run") == 0
    assert call("export", "run", "--out", "export", "--steps", 2) == 0
    assert call("generate", "export", "a cat", "--size", "80x48", "--out", "samples") == 0
    assert np.asarray(Image.open("samples/00000/samples/0000.png")).shape == (48, 80, 3)
    assert call("generate", "export", "a cat", "--size", "96x48", "--out", "others") == 2


PRESET = """
from tessera.models.dit import DiTConfig
from tessera.train.config import TrainConfig


def tiny():
    model = DiTConfig(latent_channels=48, latent_size=16, width=16, depth=1, heads=2, text_width=64, refiner_depth=1)
    return TrainConfig(model=model, num_images=8, batch_size=4, augment_prob=0.0, sample_every_images=8)
"""
