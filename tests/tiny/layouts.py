"""Image sets in the layouts that collect knows."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tessera.curate.collect.collect import CollectConfig

SYNSETS = {"n02099601": "golden retriever", "n01440764": "tench, Tinca tinca", "n02099712": "Labrador retriever"}


ORDER = sorted(SYNSETS)


CONFIG = CollectConfig(source="imagenet", size=16)


KAGGLE = Path("ILSVRC/Data/CLS-LOC")


def jpeg(seed: int, **options) -> bytes:
    coarse = Image.effect_noise((6, 5), 90 + seed % 7).convert("RGB")
    file = io.BytesIO()
    Image.merge("RGB", [coarse.getchannel(i).rotate(seed * 90) for i in range(3)]).resize((40 + seed, 30)).save(
        file, "JPEG", quality=90, **options
    )
    return file.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg(5, exif=exif)


def mapping_file(folder: Path, name: str = "LOC_synset_mapping.txt") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(f"{synset} {SYNSETS[synset]}\n" for synset in ORDER))
    return folder / name


def write_folders(folder, pictures):
    for (synset, stem), data in pictures.items():
        path = folder / synset / f"{stem}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def class_tar(pictures, synset) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for (mine, stem), data in pictures.items():
            if mine == synset:
                add(tar, f"{stem}.JPEG", data)
    return file.getvalue()


def make_plain(root, pictures):
    mapping_file(root)
    return write_folders(root, pictures)


def make_torchvision(root, pictures):
    mapping_file(root.parent)
    write_folders(root / "train", pictures)
    write_folders(root / "val", dict(list(pictures.items())[:2]))
    return root


def make_kaggle(root, pictures):
    mapping_file(root)
    write_folders(root / KAGGLE / "train", pictures)
    (root / KAGGLE / "test").mkdir()
    return root


def make_tar(root, pictures):
    mapping_file(root)
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as tar:
        for synset in reversed(ORDER):
            add(tar, f"{synset}.tar", class_tar(pictures, synset))
    return root / "ILSVRC2012_img_train.tar"


def make_class_tars(root, pictures):
    mapping_file(root)
    for synset in ORDER:
        (root / f"{synset}.tar").write_bytes(class_tar(pictures, synset))
    return root


def shuffled(item) -> bytes:
    """Key of an order that is no order of names or classes, and the same in every process."""
    return hashlib.sha256("".join(("order", *item[0])).encode()).digest()


def make_parquet(root, pictures):
    (root / "data").mkdir(parents=True)
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features = {"label": {"names": [SYNSETS[s] for s in ORDER], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    schema = pa.schema([("image", image), ("label", pa.int64())], metadata=metadata)
    rows = [
        ({"bytes": data, "path": f"{stem}_{synset}.JPEG"}, ORDER.index(synset))
        for (synset, stem), data in sorted(pictures.items(), key=shuffled)
    ]
    for number, part in enumerate((rows[:5], rows[5:])):
        table = pa.table({"image": [r[0] for r in part], "label": [r[1] for r in part]}, schema=schema)
        pq.write_table(table, root / "data" / f"train-0000{number}-of-00002.parquet", row_group_size=3)
    pq.write_table(table.slice(0, 1), root / "data" / "validation-00000-of-00001.parquet")
    return root


def make_webdataset(root, pictures):
    mapping_file(root)
    items = sorted(pictures.items(), key=shuffled)
    for number, part in enumerate((items[:4], items[4:])):
        with tarfile.open(root / f"imagenet-train-{number:04d}.tar", "w") as tar:
            for i, ((synset, stem), data) in enumerate(part):
                label = {"label": ORDER.index(synset), "filename": f"{synset}/{stem}.JPEG"}
                if i % 2:
                    add(tar, f"{stem}.cls", synset.encode())
                else:
                    add(tar, f"{stem}.json", json.dumps(label).encode())
                add(tar, f"{stem}.jpg", data)
                add(tar, f"{stem}.txt", b"other")
    return root


def hub_set(folder: Path, labels: list, names: list[str] | None = None) -> Path:
    folder.mkdir()
    images = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(len(labels))]
    table = pa.table({"image": images, "label": labels})
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, folder / "a.parquet")
    return folder
