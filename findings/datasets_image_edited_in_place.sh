#!/usr/bin/env bash
# Version:  datasets 5.2.0, Pillow 12.3.0
# Guess:    map stores the image that its function returns. A function that edits the image in place (CutMix by
#           base.paste(other, box), masks by ImageDraw, a smaller size by thumbnail) gives a set of edited images,
#           whether the set was read from a folder or from Parquet.
# Behavior: Pillow keeps the filename of an opened image through every edit in place, and datasets stores an image
#           that has a filename as that path, not as its pixels. On a set of image files the edits are lost without an
#           error: new captions and labels then belong to unedited images. On a set of bytes the same function works,
#           as it does on image.copy(), which has no filename. Dataset.from_dict with opened images loses edits in the
#           same way.
# Output:   colors of the left and right half of a red image after blue was pasted over its left half, and the size of
#           an image of 8 x 8 after thumbnail((4, 4)); see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pillow==12.3.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
from pathlib import Path

import datasets
from PIL import Image

COLORS = {(255, 0, 0): "red", (0, 0, 255): "blue"}
folder = Path(sys.argv[1]) / "images"
folder.mkdir()
Image.new("RGB", (8, 8), "red").save(folder / "fox.png")


def paste(row):
    row["image"].paste((0, 0, 255), (0, 0, 4, 8))
    return {"image": row["image"], "text": "blue next to red"}


def paste_in_copy(row):
    return paste({"image": row["image"].copy()})


def shrink(row):
    row["image"].thumbnail((4, 4))
    return row


def show(said, image):
    print(f"{said}: {COLORS[image.getpixel((0, 0))]} and {COLORS[image.getpixel((7, 0))]}")


of_files = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=f"{sys.argv[1]}/cache")
data = (folder / "fox.png").read_bytes()
of_bytes = datasets.Dataset.from_list([{"image": {"bytes": data, "path": None}}], features=of_files.features)
for said, images in (("file", of_files), ("bytes", of_bytes)):
    pasted = images.map(paste)[0]
    show(f"{said}, pasted in place, text '{pasted['text']}'", pasted["image"])
    show(f"{said}, pasted in a copy", images.map(paste_in_copy)[0]["image"])
    print(f"{said}, thumbnail: {images.map(shrink)[0]['image'].size}")
opened = paste({"image": Image.open(folder / "fox.png")})["image"]
show("opened and pasted, before from_dict", opened)
show("after it", datasets.Dataset.from_dict({"image": [opened]}, features=of_files.features)[0]["image"])
PY
cat >"$folder/expected" <<'OUT'
file, pasted in place, text 'blue next to red': red and red
file, pasted in a copy: blue and red
file, thumbnail: (8, 8)
bytes, pasted in place, text 'blue next to red': blue and red
bytes, pasted in a copy: blue and red
bytes, thumbnail: (4, 4)
opened and pasted, before from_dict: blue and red
after it: red and red
OUT
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder" 2>/dev/null |
	diff "$folder/expected" - && echo "as found"
