"""Tar files: links and names that lead out."""

import io
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
