#!/usr/bin/env bash
# Version:  datasets 5.2.0
# Guess:    A metadata.csv with captions adds a column to what load_dataset("imagefolder") gives for class folders: image,
#           label and text, and images that it does not name have no text.
# Behavior: With a metadata file the labels of the folders are gone, with drop_labels=False too, and every image that the
#           file does not name is left out. Neither is said: a set that is half captioned trains on that half, and a
#           model of classes loses its classes when captions are added.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 pillow==12.3.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
from pathlib import Path

from datasets import load_dataset
from PIL import Image

photos = Path(sys.argv[1]) / "photos"
for name in ("fox", "hen"):
    for number in range(2):
        (photos / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(photos / name / f"{number}.png")


def show(said, **options):
    found = load_dataset("imagefolder", data_dir=str(photos), split="train", cache_dir=f"{sys.argv[1]}/{said}", **options)
    print(f"{said}: {len(found)} images, columns {found.column_names}")


show("class folders")
(photos / "metadata.csv").write_text("file_name,text\nfox/0.png,a red fox\nhen/0.png,a brown hen\n")
show("half captioned")
show("labels asked for", drop_labels=False)
PY
cat >"$folder/expected" <<'OUT'
class folders: 4 images, columns ['image', 'label']
half captioned: 2 images, columns ['image', 'text']
labels asked for: 2 images, columns ['image', 'text']
OUT
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder" 2>/dev/null |
	diff "$folder/expected" - && echo "as found"
