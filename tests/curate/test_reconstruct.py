"""What VAEs leave of images: the numbers against numpy by hand, the sheet's pixels, and what cannot be tried."""

import numpy as np
import pytest

from tessera.config import UserError
from tessera.curate.reconstruct import LABEL_HEIGHT, ReconstructConfig, psnr, reconstruct
from tessera.images import read_rgb, write_png
from tessera.pretrained.vae import load_codec
from tiny.commands import tessera


@pytest.fixture
def photos(tmp_path):
    """Twelve images of 40 x 32 px, two of them in a folder, and a file that is none."""
    random = np.random.default_rng(0)
    for n in range(12):
        folder = "below/" * (n < 2)
        write_png(tmp_path / "photos" / f"{folder}{n:02d}.png", random.integers(0, 256, (40, 32, 3), dtype=np.uint8))
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


def test_psnr_by_hand():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    others = images.copy()
    others[1] = 5
    others[2] = 255
    assert psnr(images, others) == pytest.approx([99, 10 * np.log10(255**2 / 25), 0])


def test_numbers_and_sheet(photos, vae_folder, tmp_path):
    sheet = tmp_path / "sheet.png"
    vaes = [str(vae_folder), "pixel-unshuffle:4"]
    config = ReconstructConfig(size=32, count=100)
    network, exact = reconstruct(photos, vaes, sheet, config, "cpu")
    originals = np.stack([read_rgb(p)[4:36] for p in sorted(photos.rglob("*.png"))])
    codec = load_codec(str(vae_folder), "cpu")
    decoded = codec.decode(codec.encode(originals)[0])
    ratios = psnr(originals, decoded)
    assert network.psnr == pytest.approx(ratios.mean())
    assert network.worst_psnr == ratios.min() < ratios.max()
    assert network.error == pytest.approx(np.abs(originals.astype(int) - decoded).mean())
    assert network.worst.endswith(sorted(photos.rglob("*.png"))[ratios.argmin()].stem)
    assert (exact.psnr, exact.error, exact.latent_shape) == (99, 0, (48, 8, 8))

    pixels = read_rgb(sheet)[LABEL_HEIGHT:]
    assert pixels.shape == (8 * 34 - 2, 3 * 34 - 2, 3)
    worst, best = ratios.argmin(), ratios.argmax()
    for row, number in ((0, worst), (7, best)):
        for column, image in enumerate((originals, decoded, originals)):
            tile = pixels[34 * row : 34 * row + 32, 34 * column : 34 * column + 32]
            assert np.array_equal(tile, image[number]), (row, column)


def test_images_are_taken_evenly_and_from_a_collected_set_too(photos, images, tmp_path):
    some = ReconstructConfig(size=16, count=3)
    assert reconstruct(photos, ["pixel-unshuffle:4"], tmp_path / "a.png", some)[0].error == 0
    assert read_rgb(tmp_path / "a.png").shape[0] == 3 * 18 - 2 + LABEL_HEIGHT
    assert reconstruct(images, ["pixel-unshuffle:4"], tmp_path / "b.png", some)[0].error == 0


def test_what_cannot_be_tried(photos, tmp_path):
    sheet, some = tmp_path / "sheet.png", ReconstructConfig(size=30, count=3)
    with pytest.raises(UserError, match="multiple of 4, not 30"):
        reconstruct(photos, ["pixel-unshuffle:4"], sheet, some)
    with pytest.raises(UserError, match=r"sheet\.jpg: the contact sheet is a PNG file; name it .*sheet\.png"):
        reconstruct(photos, ["pixel-unshuffle"], sheet.with_suffix(".jpg"))
    with pytest.raises(UserError, match="unknown image codec"):
        reconstruct(photos, ["sdvae"], sheet)
    with pytest.raises(UserError, match="no such folder"):
        reconstruct(tmp_path / "nowhere", ["pixel-unshuffle"], sheet)
    only = tmp_path / "only"
    only.mkdir()
    (only / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="no image of it can be read"):
        reconstruct(only, ["pixel-unshuffle"], sheet)
    assert not sheet.exists()


def test_the_verb(photos, tmp_path):
    done = tessera(
        "doctor", "--vae", "pixel-unshuffle:4", "pixel-unshuffle:8", "--images", photos, "--size", 32, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "| pixel-unshuffle:8 | 192 x 4 x 4 | 99.00" in done.stdout
    assert (tmp_path / "vaes.png").is_file()
    alone = tessera("doctor", "--vae", "pixel-unshuffle:4", cwd=tmp_path)
    assert alone.returncode == 2
    assert "--vae and --images go together" in alone.stderr
