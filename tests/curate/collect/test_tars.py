"""Tar files: links and names that lead out."""

import io
import json
import tarfile

import pytest

from tessera.config import UserError
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.index import read_images
from tessera.stages import read_manifest
from tiny.layouts import CONFIG, add, jpeg, mapping_file


def test_links_in_archives_are_named(tmp_path):
    def link(tar, name, target, kind):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        tar.addfile(info)

    for folder, first in (("web", "1.jpg"), ("imagenet", "n01440764_1.JPEG")):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / ("a.tar" if folder == "web" else "n01440764.tar")
        with tarfile.open(path, "w") as tar:
            for i in (1, 2, 3):
                add(tar, f"{i}.cls", b"fox")
            add(tar, first, jpeg(1))
            link(tar, "2.jpg", first, tarfile.LNKTYPE)
            link(tar, "3.jpg", first, tarfile.SYMTYPE)
        mapping_file(tmp_path / folder)
        collect(tmp_path / f"{folder}-out", CollectConfig(source=folder, size=16), tmp_path / folder)
        assert len(read_images(tmp_path / f"{folder}-out")) == 1
        reason = "a link in its archive, without bytes of its own"
        assert read_manifest(tmp_path / f"{folder}-out").rejects == {
            f"{path.name}/2.jpg": reason,
            f"{path.name}/3.jpg": reason,
        }


@pytest.mark.parametrize(
    "name", ["../n01440764_1.JPEG", "/etc/n01440764_1.JPEG", "a/../../b.JPEG", "C:/b.jpg", "..\\b.jpg"]
)
def test_a_tar_that_leads_out_is_refused(name, tmp_path):
    for kind in ("inner", "shard"):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            add(tar, name, jpeg(1))
        path = tmp_path / f"{kind}.tar"
        if kind == "shard":
            path.write_bytes(file.getvalue())
        else:
            with tarfile.open(path, "w") as tar:
                add(tar, "n01440764.tar", file.getvalue())
        with pytest.raises(UserError, match=r"its entry '.*' leads out of the archive; do not use it") as caught:
            collect(tmp_path / "out", CONFIG, path)
        assert repr(name) in str(caught.value)
        assert not (tmp_path / "out").exists()


def shard(count: int = 8, start: int = 0) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for i in range(start, start + count):
            add(tar, f"{i:04}.cls", b"fox")
            add(tar, f"{i:04}.jpg", jpeg(i))
    return file.getvalue()


def header_of(data: bytes, name: str) -> int:
    return data.index(name.encode())


WHOLE = shard(8)
MIDDLE = header_of(WHOLE, "0004.cls")
DAMAGE = {
    "cut in a header": (WHOLE[: MIDDLE + 100], "it is cut at byte"),
    "cut between entries": (WHOLE[:MIDDLE], "has no end mark at byte"),
    "cut in an image": (WHOLE[: header_of(WHOLE, "0004.jpg") + 700], "unexpected end of data"),
    "a header of zeros": (WHOLE[:MIDDLE] + bytes(512) + WHOLE[MIDDLE + 512 :], "data follow its end mark at byte"),
    "entries of zeros": (
        WHOLE[:MIDDLE] + bytes(header_of(WHOLE, "0006.cls") - MIDDLE) + WHOLE[header_of(WHOLE, "0006.cls") :],
        "data follow its end mark at byte",
    ),
    "a flipped header": (WHOLE[:MIDDLE] + b"\xff" + WHOLE[MIDDLE + 1 :], "is damaged, no header is there"),
    "an end of zeros": (WHOLE[:MIDDLE] + bytes(len(WHOLE) - MIDDLE), "its last [0-9]+ bytes are zeros"),
    "two joined": (WHOLE + shard(start=8), "data follow its end mark .* joined from several"),
    "text at the end": (WHOLE + b"signature", "data follow its end mark"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_no_image_of_a_damaged_tar_is_lost_in_silence(how, tmp_path):
    data, said = DAMAGE[how]
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(UserError, match=rf"a\.tar: is not a whole tar file: .*{said}.*; fetch it again"):
        collect(tmp_path / "out", CONFIG, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "outer.tar", "w") as tar:
        add(tar, "n01440764.tar", data)
    with pytest.raises(UserError, match=rf"outer\.tar: is not a whole tar file \(in the part at byte 512\): .*{said}"):
        collect(tmp_path / "out", CONFIG, tmp_path / "outer.tar")
    assert not (tmp_path / "out").exists()


def test_zeros_at_the_end_are_an_end_mark_of_any_length(tmp_path):
    end = len(WHOLE.rstrip(b"\0")) // 512 * 512 + 512
    for number, zeros in enumerate((512, 1024, 10 * 512, 11000, 2**16 - end % 2**16)):
        (tmp_path / f"{number}.tar").write_bytes(WHOLE[:end] + bytes(zeros))
        collect(tmp_path / f"out-{number}", CollectConfig(source="a", size=16), tmp_path / f"{number}.tar")
        assert len(read_images(tmp_path / f"out-{number}")) == 8


def samples(folder, *entries: tuple[str, bytes]) -> dict[str, str]:
    """Return key -> class of the images of a shard."""
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, data in entries:
            add(tar, name, data)
    collect(folder / "out", CollectConfig(source="a", size=16), folder / "a.tar")
    return {row.key: row.class_name for row in read_images(folder / "out")}


def test_keys_end_at_the_first_dot(tmp_path):
    """As webdataset splits them: a/b.seg.png is the field seg.png of the sample a/b."""
    found = samples(
        tmp_path, ("a/b.png", jpeg(0)), ("a/b.seg.png", jpeg(1)), ("a/b.cls", b"fox"), ("a/b.depth.tiff", b"II"),
        ("c.thumb.jpg", jpeg(2)), ("c.cls", b"wolf"), ("c.json", json.dumps({"label": "cat"}).encode()),
    )  # fmt: skip
    assert found == {"fox/a-b": "fox", "wolf/c": "wolf"}
    manifest = read_manifest(tmp_path / "out")
    assert manifest.counts["ignored"] == 2
    assert manifest.facts["ignored"] == {"*.depth.tiff": 1, "*.seg.png": 1}


def test_images_with_dots_and_labels_of_their_own_are_samples(tmp_path):
    found = samples(
        tmp_path, ("photo.2020.01.jpg", jpeg(0)), ("photo.2020.01.cls", b"fox"), ("photo.2020.02.jpg", jpeg(1)),
        ("photo.2020.02.json", b'{"label": "wolf"}'), ("photo.jpg", jpeg(2)), ("photo.cls", b"cat"),
    )  # fmt: skip
    assert found == {"fox/photo.2020.01": "fox", "wolf/photo.2020.02": "wolf", "cat/photo": "cat"}


def test_samples_of_two_images_are_refused(tmp_path):
    for names in (("a.left.jpg", "a.right.jpg"), ("a.jpg", "a.png"), ("a.jpg", "a.jpg")):
        with pytest.raises(UserError, match=r"a\.tar: .* keys must be unique; rename one"):
            samples(tmp_path, *((name, jpeg(0)) for name in names), ("a.cls", b"fox"))
