#!/usr/bin/env bash
# Version:  img2dataset 1.47.0, opencv-python-headless 4.14.0.94, albumentations 1.4.24
# Guess:    A PNG file of 16 bits a channel (X-rays, microscopy, depth maps, renderings) is stored as the JPEG or WebP
#           file of 8 bits that a browser would show: a gray of 50% stays one. Or it fails and is counted as such.
# Behavior: The values are cut at 255 in place of divided by 257: what is brighter than 0.4% becomes white. So it is for
#           gray and RGB, for JPEG and WebP and for every resize_mode, and the image is counted as a success. OpenCV
#           warns, but img2dataset hides what is written to stderr meanwhile. With encode_format="png" 16 bits are kept,
#           but the border of resize_mode="border", the default, is black in place of white (255 of 65535), and an
#           opaque image with an alpha channel is white there too. Images of 8 bits are right. A set can be converted to
#           8 bits before, or stored as it is by disable_all_reencoding.
# Output:   stripes of 0%, 25%, 50% and 100% of an image's largest possible value, as they are stored, and the border of
#           a wide image; see the lines after "expected" below. The images come from a server on this machine.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet img2dataset==1.47.0 opencv-python-headless==4.14.0.94 albumentations==1.4.24 \
	numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import io
import json
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import cv2
import numpy as np
from img2dataset import download
from img2dataset.resizer import Resizer

MODES = ("no", "keep_ratio", "center_crop", "border", "keep_ratio_largest")


def stripes(bits, channels):
    """Return an image (256, 256, channels) of four stripes."""
    largest = 2**bits - 1
    row = np.repeat([0, largest // 4, largest // 2, largest], 64)
    image = np.broadcast_to(row[None, :, None], (256, 256, channels)).astype("uint8" if bits == 8 else "uint16")
    if channels == 4:
        image[..., 3] = largest
    return image


def percent(image, x, y):
    """Return a pixel's first channel, as percent of the largest value that its file can hold."""
    return round(100 * float(image[y, x].flat[0]) / np.iinfo(image.dtype).max)


def levels(image):
    """Return the percents of the four stripes of a square image."""
    size = len(image)
    return " ".join(str(percent(image, size * i // 8, size // 2)) for i in (1, 3, 5, 7))


def stored(image, encoding, mode):
    """Return an image as img2dataset stores it when it resizes to 64 x 64."""
    resizer = Resizer(64, mode, False, encode_format=encoding, encode_quality=9 if encoding == "png" else 95)
    file, *_, error = resizer(io.BytesIO(cv2.imencode(".png", image)[1].tobytes()))
    assert error is None
    return cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)


def main(folder, report):
    images = {
        "8 bits, gray": stripes(8, 1),
        "8 bits, RGB": stripes(8, 3),
        "8 bits, RGBA": stripes(8, 4),
        "16 bits, gray": stripes(16, 1),
        "16 bits, RGB": stripes(16, 3),
        "16 bits, RGBA": stripes(16, 4),
    }
    (folder / "images").mkdir()
    for i, image in enumerate(images.values()):
        cv2.imwrite(str(folder / f"images/{i}.png"), image)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder / "images"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    urls = [f"http://127.0.0.1:{server.server_port}/{i}.png\n" for i in range(len(images))]
    (folder / "urls.txt").write_text("".join(urls))
    download(url_list=str(folder / "urls.txt"), output_folder=str(folder / "out"), thread_count=1)
    server.shutdown()

    counts = json.loads((folder / "out/00000_stats.json").read_text())
    print(f"downloaded: {counts['successes']} successes of {counts['count']}", file=report)
    for i, said in enumerate(images):
        image = cv2.imread(str(folder / f"out/00000/{i:09}.jpg"), cv2.IMREAD_UNCHANGED)
        print(f"{said}: {levels(image)}", file=report)
    for encoding in ("jpg", "webp", "png"):
        for said, image in list(images.items())[2:]:
            found = {levels(stored(image, encoding, mode)) for mode in MODES}
            border = percent(stored(image[:128], encoding, "border"), 0, 0)
            print(f"{encoding}, every mode, {said}: {' or '.join(sorted(found))}, border {border}", file=report)


if __name__ == "__main__":  # img2dataset starts other processes
    with open(sys.argv[2], "w", encoding="utf-8") as report:
        main(Path(sys.argv[1]), report)
PY
cat >"$folder/expected" <<'OUT'
downloaded: 6 successes of 6
8 bits, gray: 0 25 50 100
8 bits, RGB: 0 25 50 100
8 bits, RGBA: 0 25 50 100
16 bits, gray: 0 100 100 100
16 bits, RGB: 0 100 100 100
16 bits, RGBA: 0 100 100 100
jpg, every mode, 8 bits, RGBA: 0 25 50 100, border 100
jpg, every mode, 16 bits, gray: 0 100 100 100, border 100
jpg, every mode, 16 bits, RGB: 0 100 100 100, border 100
jpg, every mode, 16 bits, RGBA: 0 100 100 100, border 100
webp, every mode, 8 bits, RGBA: 0 25 50 100, border 100
webp, every mode, 16 bits, gray: 0 100 100 100, border 100
webp, every mode, 16 bits, RGB: 0 100 100 100, border 100
webp, every mode, 16 bits, RGBA: 0 100 100 100, border 100
png, every mode, 8 bits, RGBA: 0 25 50 100, border 100
png, every mode, 16 bits, gray: 0 25 50 100, border 0
png, every mode, 16 bits, RGB: 0 25 50 100, border 0
png, every mode, 16 bits, RGBA: 0 100 100 100, border 100
OUT
export NO_ALBUMENTATIONS_UPDATE=1  # it asks for its newest version
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder" "$folder/report" >/dev/null 2>&1
diff "$folder/expected" "$folder/report" && echo "as found"
