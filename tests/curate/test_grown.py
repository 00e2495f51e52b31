"""A set that grew is made by its difference alone, and equals one that is made at once."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.config import UserError
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.table import read_captions
from tessera.curate.collect import sources
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.encode import EncodeConfig, encode
from tessera.curate.grown import CHANGES, STATES_TABLE
from tessera.encoded.store import open_encoded
from tessera.files import read_json
from tessera.pretrained.text_encoders import Words
from tessera.pretrained.vae import PixelUnshuffle
from tessera.stages import read_manifest
from tiny.folders import tree

COLLECT = CollectConfig(source="photos", size=16)
ENCODE = EncodeConfig(shard_size=4, latents="pixel-unshuffle:4", text="words:32")

CAPTIONER = """
from pathlib import Path

class Mean:
    def describe(self, requests):
        with open({asked!r}, "a") as file:
            file.writelines(f"{{request.key}}\\n" for request in requests)
        return [f"A {{each.class_name}} of gray {{each.image.mean():.1f}}, {{each.key}}." for each in requests]
"""


def draw(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 24, 3), level, np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two classes of five images."""
    for number in range(10):
        draw(tmp_path / "photos" / ("fox", "wolf")[number % 2] / f"{number}.bmp", 10 * number)
    return tmp_path / "photos"


@pytest.fixture
def captioner(tmp_path) -> CaptionConfig:
    """A captioner that notes the keys that it is asked for in the file `asked`."""
    (tmp_path / "mean.py").write_text(CAPTIONER.format(asked=str(tmp_path / "asked")))
    return CaptionConfig(captioner=f"{tmp_path / 'mean.py'}:Mean")


def change(photos: Path) -> None:
    """One image more, one less, one edited to as many bytes, two that changed names, and a class that is new."""
    draw(photos / "fox" / "new.bmp", 200)
    draw(photos / "lynx" / "first.bmp", 210)
    (photos / "wolf" / "1.bmp").unlink()
    size = (photos / "fox" / "2.bmp").stat().st_size
    draw(photos / "fox" / "2.bmp", 77)
    assert (photos / "fox" / "2.bmp").stat().st_size == size
    for old, new in (("3", "x"), ("5", "3"), ("x", "5")):
        (photos / "wolf" / f"{old}.bmp").rename(photos / "wolf" / f"{new}.bmp")


FRESH = ["fox/2", "fox/new", "lynx/first", "wolf/3", "wolf/5"]


def records(directory: Path) -> dict[str, tuple]:
    """key -> everything in the record, in the order of the set."""
    store = open_encoded(directory)
    found = {}
    for record in (store[index] for index in range(len(store))):
        arrays = (record.latent_mean, record.latent_std, record.text_codes, record.text_scale)
        found[record.key] = (record.class_name, record.caption, *(np.asarray(array).tobytes() for array in arrays))
    return found


def make(out: Path, photos: Path, captioner: CaptionConfig, before: Path | None = None, **how) -> None:
    def of(name):
        return before / name if before else None

    collect(out / "images", COLLECT, photos, reuse=of("images"), **how)
    caption(out / "captions", out / "images", captioner, reuse=of("captions"))
    encode(out / "encoded", out / "images", out / "captions", ENCODE, reuse=of("encoded"))


def noting(work, into: list, what):
    def noted(*args, **kwargs):
        into.extend(what(*args))
        return work(*args, **kwargs)

    return noted


def test_a_grown_set_equals_one_made_at_once(photos, captioner, tmp_path, monkeypatch):
    make(tmp_path / "old", photos, captioner)
    old = tree(tmp_path / "old")
    change(photos)
    (tmp_path / "asked").unlink()
    cropped, encoded, texts = [], [], []
    for module, name, into, count in (
        (sources, "square_crop", cropped, lambda path, *_: [path]),
        (PixelUnshuffle, "encode", encoded, lambda _self, pixels: list(pixels)),
        (Words, "encode", texts, lambda _self, captions: filter(None, captions)),
    ):
        monkeypatch.setattr(module, name, noting(getattr(module, name), into, count))
    make(tmp_path / "grown", photos, captioner, tmp_path / "old")
    assert sorted(f"{path.parent.name}/{path.stem}" for path in cropped) == FRESH
    assert (tmp_path / "asked").read_text().split() == FRESH
    assert (len(encoded), len(texts)) == (len(FRESH), len(FRESH))
    assert tree(tmp_path / "old") == old
    assert read_json(tmp_path / "grown" / "images" / CHANGES) == {
        "made_from": read_manifest(tmp_path / "old" / "images").sha256,
        "added": ["fox/new", "lynx/first"],
        "changed": ["fox/2", "wolf/3", "wolf/5"],
        "removed": ["wolf/1"],
    }
    counts = read_manifest(tmp_path / "grown" / "images").facts["grown"]
    assert (counts["added"], counts["changed"], counts["removed"]) == (2, 3, 1)

    make(tmp_path / "once", photos, captioner)
    grown, once = (tree(tmp_path / name / "images") for name in ("grown", "once"))
    others = {CHANGES, "manifest.json"}
    assert {name: data for name, data in grown.items() if name not in others} == {
        name: data for name, data in once.items() if name not in others
    }
    assert read_captions(tmp_path / "grown" / "captions") == read_captions(tmp_path / "once" / "captions")
    assert list(records(tmp_path / "grown" / "encoded").items()) == list(records(tmp_path / "once" / "encoded").items())
    for name in ("shard-00000.arrow", "shard-00002.arrow"):
        one, other = (tmp_path / made / "encoded" / name for made in ("grown", "once"))
        assert one.read_bytes() == other.read_bytes()


def test_other_captions_of_the_same_images_keep_the_latents(photos, captioner, tmp_path, monkeypatch):
    make(tmp_path / "old", photos, captioner)
    images = tmp_path / "old" / "images"
    caption(tmp_path / "aio", images, CaptionConfig())
    monkeypatch.setattr(PixelUnshuffle, "encode", None)  # cannot be called
    encode(tmp_path / "encoded", images, tmp_path / "aio", ENCODE, reuse=tmp_path / "old" / "encoded")
    assert {record[1] for record in records(tmp_path / "encoded").values()} == {
        "An image of fox", "An image of wolf"
    }  # fmt: skip


def test_a_copied_set_is_compared_by_its_bytes(photos, tmp_path):

    collect(tmp_path / "old", COLLECT, photos, by_hash=True)
    shutil.copytree(photos, tmp_path / "elsewhere" / "photos")
    draw(tmp_path / "elsewhere" / "photos" / "fox" / "2.bmp", 77)
    collect(tmp_path / "new", COLLECT, tmp_path / "elsewhere" / "photos", reuse=tmp_path / "old", by_hash=True)
    changes = read_json(tmp_path / "new" / CHANGES)
    assert (changes["added"], changes["changed"], changes["removed"]) == ([], ["fox/2"], [])
    with pytest.raises(UserError, match="was collected with --by-hash; give it, or leave --reuse out"):
        collect(tmp_path / "other", COLLECT, photos, reuse=tmp_path / "old")


def test_where_no_links_can_be_made_crops_are_copied(photos, tmp_path, monkeypatch):
    collect(tmp_path / "old", COLLECT, photos)

    def refuse(*_args):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(sources, "square_crop", None)
    collect(tmp_path / "new", COLLECT, photos, reuse=tmp_path / "old")
    assert {name: data for name, data in tree(tmp_path / "old").items() if name != "manifest.json"} == {
        name: data for name, data in tree(tmp_path / "new").items() if name not in ("manifest.json", CHANGES)
    }


def test_damaged_and_rejected_crops_are_made_again(photos, tmp_path):
    (photos / "fox" / "bad.bmp").write_bytes(b"no image")
    collect(tmp_path / "old", COLLECT, photos)
    whole = (tmp_path / "old" / "fox" / "0.png").read_bytes()
    (tmp_path / "old" / "fox" / "0.png").write_bytes(whole[:50])
    (tmp_path / "old" / "fox" / "2.png").unlink()
    collect(tmp_path / "new", COLLECT, photos, reuse=tmp_path / "old")
    assert (tmp_path / "new" / "fox" / "0.png").read_bytes() == whole
    assert (tmp_path / "new" / "fox" / "2.png").exists()
    assert read_manifest(tmp_path / "new").rejects == {"fox/bad.bmp": "not an image, or an unknown format"}


def test_what_cannot_be_taken_over_is_said_in_one_line(photos, captioner, tmp_path):
    make(tmp_path / "old", photos, captioner)
    old, new = tmp_path / "old", tmp_path / "new"

    def fails(match, work, *args, **kwargs):
        with pytest.raises(UserError, match=match) as error:
            work(*args, **kwargs)
        assert "\n" not in str(error.value)

    fails("is the directory to reuse", collect, new, COLLECT, photos, reuse=new)
    fails("was made otherwise: size: the directory has 16, this call has 24", collect, new,
          replace(COLLECT, size=24), photos, reuse=old / "images")  # fmt: skip
    fails("for folders of images; the miniature", collect, new, CollectConfig(), reuse=old / "images")
    fails("made by `tessera caption`", collect, new, COLLECT, photos, reuse=old / "captions")
    draw(photos / "fox" / "new.bmp", 200)
    collect(new, COLLECT, photos)
    fails("was made from images that .* was not collected with: collect with --reuse", caption, tmp_path / "c", new,
          captioner, reuse=old / "captions")  # fmt: skip
    caption(tmp_path / "aio", new, CaptionConfig())
    fails("was not collected with", encode, tmp_path / "e", new, tmp_path / "aio", ENCODE, reuse=old / "encoded")
    fails("text_encoding: the directory has .int8.*this call has .fp16.", encode, tmp_path / "e", new, tmp_path / "aio",
          replace(ENCODE, text_encoding="fp16"), reuse=old / "encoded")  # fmt: skip
    (old / "images" / STATES_TABLE).unlink()
    sources.read_states.cache_clear()
    fails("there is no such file; --reuse needs a directory that was collected from files", collect,
          tmp_path / "third", COLLECT, photos, reuse=old / "images")  # fmt: skip
    assert not (tmp_path / "e").exists()


JOB = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from curate.test_grown import make
from tessera.curate.caption.caption import CaptionConfig

if __name__ == "__main__":
    out, photos, captioner, before = sys.argv[1:]
    print("begin", flush=True)
    make(Path(out), Path(photos), CaptionConfig(captioner=captioner), Path(before))
"""


def kill_rounds(rounds: int, photos: Path, captioner: CaptionConfig, folder: Path, change=change) -> None:
    """Kill the growth of a set at random moments; run again, it ends as an undisturbed one."""

    make(folder / "old", photos, captioner)
    change(photos)
    make(folder / "expected", photos, captioner, folder / "old")
    old, expected = tree(folder / "old"), tree(folder / "expected")
    (folder / "job.py").write_text(JOB.format(tests=str(Path(__file__).parent.parent)))
    environment = os.environ | {"TESSERA_QUIET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    rng, stopped, seconds = np.random.default_rng(0), 0, 0.0

    def start(out: Path) -> subprocess.Popen:
        words: Sequence[str] = [str(out), str(photos), captioner.captioner, str(folder / "old")]
        child = subprocess.Popen(
            [sys.executable, str(folder / "job.py"), *words],
            env=environment,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"begin\n"
        return child

    for number in range(rounds + 1):
        out = folder / f"out-{number}"
        if number:
            with start(out) as child:
                time.sleep(rng.uniform(0, seconds))
                stopped += child.poll() is None
                child.kill()
            assert tree(folder / "old") == old
        begin = time.monotonic()
        with start(out) as child:
            assert child.wait(timeout=120) == 0
        seconds = seconds or time.monotonic() - begin
        assert tree(out) == expected
        shutil.rmtree(out)
    assert stopped > 0


@pytest.mark.slow
def test_killed_and_run_again(photos, captioner, tmp_path):
    kill_rounds(3, photos, captioner, tmp_path)


@pytest.mark.slow
def test_killed_thirty_times(photos, captioner, tmp_path):
    kill_rounds(30, photos, captioner, tmp_path)
