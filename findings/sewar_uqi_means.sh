#!/usr/bin/env bash
# Version:  sewar 0.4.10 (uqi), scipy 1.17.1
# Guess:    uqi is the universal image quality index: 1 for the same image, 0 for images that have nothing in common but
#           their brightness, and -1 for a negative. Of two damages, the one with the lower index is worse.
# Behavior: The formula is the one for sums over a window, and gets means over it: of 64 times the mean of the products
#           the product of the means is subtracted once, so what remains is brightness, not the covariance. Two images
#           of independent noise have 0.96 in place of 0.00, more than the right image that is 20% darker has. An image
#           and its negative have 0.92 in place of -1.00, and one gray has 0.98. Only the same image, darker ones and
#           black have about the right index. Nothing is said, and ssim of the same package tells all of them apart.
# Output:   the index by the definition (Wang and Bovik, 2002), in windows of 8 x 8, and by the package; see the lines
#           after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet sewar==0.4.10 numpy==2.4.6 scipy==1.17.1 pillow==12.3.0 >/dev/null
cat >"$folder/try.py" <<'PY'
import numpy as np
import sewar


def defined(a, b):
    """Return the index, 4 cov(a, b) mean(a) mean(b) / ((var(a) + var(b)) (mean(a)^2 + mean(b)^2)), as a mean."""
    a, b = (np.lib.stride_tricks.sliding_window_view(image.astype("float64"), (8, 8)) for image in (a, b))
    a, b = (windows.reshape(*windows.shape[:2], 64) for windows in (a, b))
    mean_a, mean_b = a.mean(-1), b.mean(-1)
    covariance = (a * b).mean(-1) - mean_a * mean_b
    top, bottom = 4 * covariance * mean_a * mean_b, (a.var(-1) + b.var(-1)) * (mean_a**2 + mean_b**2)
    return (top[bottom > 0] / bottom[bottom > 0]).mean() if (bottom > 0).any() else 1


rng = np.random.default_rng(0)


def texture():
    return rng.normal(127.5, 25, (128, 128)).clip(0, 255).round().astype("uint8")


image = texture()
for said, other in {
    "the same image": image,
    "20% darker": (image * 0.8).astype("uint8"),
    "40% darker": (image * 0.6).astype("uint8"),
    "an unrelated image": texture(),
    "its negative": 255 - image,
    "mirrored": image[:, ::-1],
    "one gray": np.full_like(image, 127),
    "black": np.zeros_like(image),
}.items():
    ssim = sewar.ssim(image, other)[0]
    print(f"{said}: defined {defined(image, other):.2f}, uqi {sewar.uqi(image, other):.2f}, ssim {ssim:.2f}")
PY
cat >"$folder/expected" <<'OUT'
the same image: defined 1.00, uqi 1.00, ssim 1.00
20% darker: defined 0.95, uqi 0.95, ssim 0.95
40% darker: defined 0.78, uqi 0.77, ssim 0.78
an unrelated image: defined 0.00, uqi 0.96, ssim 0.04
its negative: defined -1.00, uqi 0.92, ssim -0.91
mirrored: defined -0.02, uqi 0.96, ssim 0.03
one gray: defined 0.00, uqi 0.98, ssim 0.09
black: defined 0.00, uqi 0.00, ssim 0.00
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | sed 's/-0\.00/0.00/g' | diff "$folder/expected" - &&
	echo "as found"
