#!/usr/bin/env bash
# Version:  image-similarity-measures 0.3.6 (evaluation, and the command of the same name), scikit-image 0.20.0,
#           opencv-python-headless 4.11.0.86
# Guess:    The command and evaluation() read two PNG or JPEG files and give the measures of these images: the PSNR and
#           the SSIM that scikit-image gives, an angle of 0 between an image and itself (SAM), and the largest ISSM for
#           an image and itself.
# Behavior: The files have 8 bits, and all is computed as if they had 12: the PSNR is 24 dB too high, and two images of
#           independent noise have an SSIM of 0.57 in place of 0. Neither the command nor evaluation() has an option for
#           it. For SAM, 8-bit values are multiplied as 8-bit values, without what is above 255: an image and itself are
#           90 degrees apart, as unlike as two images can be. ISSM looks for edges in a sixteenth of the values, finds
#           none, and is 0 for every pair. No error is raised. Called one by one, psnr and ssim with max_p=255 are
#           right, and so is sam for arrays of float. issm has no such option.
# Output:   measures of an image and itself, the image with noise, and two images of noise, by evaluation() and right;
#           see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 scipy==1.15.3 scikit-image==0.20.0 phasepack==1.5 pillow==11.3.0 \
	opencv-python-headless==4.11.0.86 >/dev/null
"$folder/venv/bin/pip" install --quiet --no-deps image-similarity-measures==0.3.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import sys
from pathlib import Path

import cv2
import numpy as np
from image_similarity_measures.evaluate import evaluation
from image_similarity_measures.quality_metrics import psnr, sam, ssim
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

random = np.random.default_rng(0)
y, x = np.mgrid[:64, :64]
smooth = 128 + 80 * np.stack([np.sin(x / 5), np.cos(y / 7), np.sin((x + y) / 6)], axis=-1)
images = {
    "image": smooth,
    "noisy": smooth + random.normal(0, 20, smooth.shape),
    "noise": random.integers(0, 256, smooth.shape),
    "other noise": random.integers(0, 256, smooth.shape),
}
for name, image in images.items():
    cv2.imwrite(str(Path(sys.argv[1]) / f"{name}.png"), image.clip(0, 255).astype("uint8"))


def line(numbers):
    return "PSNR {:.1f}, SSIM {:.2f}, SAM {:.0f}".format(*(abs(n) if abs(n) < 0.05 else n for n in numbers))


for pair in (("image", "image"), ("image", "noisy"), ("noise", "other noise")):
    files = [str(Path(sys.argv[1]) / f"{name}.png") for name in pair]
    found = evaluation(*files, metrics=["psnr", "ssim", "sam", "issm"])
    a, b = map(cv2.imread, files)
    cosines = (a * 1.0 * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    angle = np.degrees(np.arccos(cosines.clip(-1, 1)).mean())
    right = peak_signal_noise_ratio(a, b), structural_similarity(a, b, data_range=255, channel_axis=2), angle
    print(" and ".join(pair))
    print(f"  evaluation: {line([found[m] for m in ('psnr', 'ssim', 'sam')])}, ISSM {found['issm']:.2f}")
    print(f"  right:      {line(right)}")
    print(f"  with max_p: {line([psnr(a, b, max_p=255), ssim(a, b, max_p=255), sam(a * 1.0, b * 1.0)])}")
PY
cat >"$folder/expected" <<'OUT'
image and image
  evaluation: PSNR inf, SSIM 1.00, SAM 90, ISSM 0.00
  right:      PSNR inf, SSIM 1.00, SAM 0
  with max_p: PSNR inf, SSIM 1.00, SAM 0
image and noisy
  evaluation: PSNR 46.3, SSIM 0.98, SAM 90, ISSM 0.00
  right:      PSNR 22.1, SSIM 0.63, SAM 6
  with max_p: PSNR 22.1, SSIM 0.63, SAM 6
noise and other noise
  evaluation: PSNR 31.8, SSIM 0.57, SAM 90, ISSM 0.00
  right:      PSNR 7.7, SSIM 0.01, SAM 34
  with max_p: PSNR 7.7, SSIM 0.01, SAM 34
OUT
mkdir "$folder/images"
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder/images" 2>/dev/null | diff "$folder/expected" - &&
	echo "as found"
