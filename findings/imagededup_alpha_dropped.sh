#!/usr/bin/env bash
# Version:  imagededup 0.3.3.post2 (PHash, DHash, AHash, WHash), Pillow 13.0.0
# Guess:    Images are duplicates if they look alike: a hash of a PNG file with a transparent background is that of the
#           image as it is shown, on some background, so different drawings have different hashes.
# Behavior: The transparency is dropped, and the color that is stored under it is hashed. Drawings and logos are often
#           of one color with all of their shape in the transparency: black everywhere, more or less visible. All such
#           images get one hash, at distance 0, and find_duplicates_to_remove names all but one of them. The same image
#           on white is not found as a duplicate of it. Nothing is said. Put the images on white before hashing.
# Output:   different hashes of eight black drawings, and how many images are to be removed at distance 0, for files
#           with a transparent and with a white background, and pairs of the same drawing that were found between both;
#           see the lines after "expected" below. The packages of the neural network and the plots are left out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 scipy==1.17.1 pillow==13.0.0 scikit-learn==1.9.1 tqdm \
	PyWavelets==1.9.0 >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps imagededup==0.3.3.post2 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
from pathlib import Path
from unittest.mock import MagicMock

import sklearn.metrics.pairwise  # noqa: F401 (before torch is replaced, which SciPy would ask for its types)
from PIL import Image, ImageDraw

models, transforms = "torchvision.models", "torchvision.transforms"
for name in ("matplotlib", "matplotlib.gridspec", "matplotlib.pyplot"):
    sys.modules[name] = MagicMock()
for name in ("torch", "torch.nn", "torch.utils", "torch.utils.data"):
    sys.modules[name] = MagicMock()
for name in ("torchvision", models, f"{models}.efficientnet", f"{models}.mobilenetv3", f"{models}.vision_transformer"):
    sys.modules[name] = MagicMock()
for name in (transforms, f"{transforms}.functional"):
    sys.modules[name] = MagicMock()
from imagededup.methods.hashing import AHash, DHash, PHash, WHash

del sys.modules["torch"]

folders = {said: Path(sys.argv[1]) / said for said in ("transparent", "white")}
for folder in folders.values():
    folder.mkdir()
for i in range(8):
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.line((8 * i, 0, 63 - 8 * i, 63), fill="black", width=6)
    draw.ellipse((5 * i, 40 - 5 * i, 5 * i + 20, 60 - 5 * i), fill="black")
    image.save(folders["transparent"] / f"{i}.png")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    white.convert("RGB").save(folders["white"] / f"{i}.png")
for kind in (PHash, DHash, AHash, WHash):
    method = kind(verbose=False)
    print(kind.__name__, end="")
    hashes = {}
    for said, folder in folders.items():
        hashes[said] = method.encode_images(image_dir=folder, num_enc_workers=0)
        remove = method.find_duplicates_to_remove(
            encoding_map=hashes[said], max_distance_threshold=0, num_dist_workers=0
        )
        print(f", {said}: {len(set(hashes[said].values()))} hashes, {len(remove)} to remove", end="")
    pairs = sum(hashes["white"][name] == hashes["transparent"][name] for name in hashes["white"])
    print(f", between both {pairs} pairs")
PY
cat >"$folder/expected" <<'OUT'
PHash, transparent: 1 hashes, 7 to remove, white: 8 hashes, 0 to remove, between both 0 pairs
DHash, transparent: 1 hashes, 7 to remove, white: 8 hashes, 0 to remove, between both 0 pairs
AHash, transparent: 1 hashes, 7 to remove, white: 8 hashes, 0 to remove, between both 0 pairs
WHash, transparent: 1 hashes, 7 to remove, white: 8 hashes, 0 to remove, between both 0 pairs
OUT
mkdir "$folder/images"
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder/images" 2>/dev/null | diff "$folder/expected" - &&
	echo "as found"
