#!/usr/bin/env bash
# Version:  litdata 0.2.76 (optimize, StreamingDataset), Pillow 13.0.0, torch 2.13.0
# Guess:    optimize stores the image that its function returns, and StreamingDataset gives it back: an opened PNG or
#           GIF file has the same colors after the round trip, whatever its mode.
# Behavior: Of an image that is not from a JPEG file, the mode, the size and the raw pixels are stored. Raw pixels of an
#           image with a palette (mode P: most GIF files and many small PNG files, logos and drawings) are numbers of
#           colors, and the palette is not stored. What comes back is an image of mode P with an empty palette: of the
#           same size, and black once it is converted to RGB. Its transparent color is lost as well. Nothing is said,
#           and images without a palette in the same set are right. convert("RGB") or convert("RGBA") in the function
#           keeps the colors.
# Output:   the left and the right pixel of an image that is half red and half blue, in RGBA, before it was stored and
#           after; see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 pillow==13.0.0 requests >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps litdata==0.2.76 lightning-utilities==0.15.3 boto3==1.44.8 \
	botocore s3transfer jmespath python-dateutil six packaging >/dev/null
cat >"$folder/try.py" <<'PY'
import sys

import litdata
from PIL import Image

FOLDER = sys.argv[1]


def sample(name):
    return {"name": name, "image": Image.open(f"{FOLDER}/{name}")}


def colors(image):
    shown = image.convert("RGBA")
    return f"{image.mode} {shown.getpixel((0, 0))} {shown.getpixel((7, 0))}"


if __name__ == "__main__":
    image = Image.new("RGB", (8, 8), "red")
    image.paste("blue", (4, 0, 8, 8))
    image.save(f"{FOLDER}/colors.png")
    palette = image.quantize(2)
    palette.save(f"{FOLDER}/palette.gif")
    palette.save(f"{FOLDER}/palette.png")
    palette.save(f"{FOLDER}/transparent.png", transparency=palette.getpixel((0, 0)))
    names = ["colors.png", "palette.gif", "palette.png", "transparent.png"]
    litdata.optimize(sample, names, f"{FOLDER}/set", num_workers=1, chunk_bytes="1MB")
    for read in sorted(litdata.StreamingDataset(f"{FOLDER}/set"), key=lambda read: read["name"]):
        file = sample(read["name"])["image"]
        print(read["name"], "stored", colors(file), "read", colors(read["image"]), file=sys.stderr)
PY
cat >"$folder/expected" <<'OUT'
colors.png stored RGB (255, 0, 0, 255) (0, 0, 255, 255) read RGB (255, 0, 0, 255) (0, 0, 255, 255)
palette.gif stored P (255, 0, 0, 255) (0, 0, 255, 255) read P (0, 0, 0, 255) (0, 0, 0, 255)
palette.png stored P (255, 0, 0, 255) (0, 0, 255, 255) read P (0, 0, 0, 255) (0, 0, 0, 255)
transparent.png stored P (255, 0, 0, 0) (0, 0, 255, 255) read P (0, 0, 0, 255) (0, 0, 0, 255)
OUT
export HOME=$folder DATA_OPTIMIZER_CACHE_FOLDER=$folder/cache DATA_OPTIMIZER_DATA_CACHE_FOLDER=$folder/data
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder" 2>&1 >/dev/null | grep stored |
	diff "$folder/expected" - && echo "as found"
