#!/usr/bin/env bash
# Version:  webdataset 1.0.2
# Guess:    In a tar of images and captions, files of one stem are one sample: "St. Bernard.jpg" and "St. Bernard.txt" are
#           the sample "St. Bernard", in whatever order the tar holds them.
# Behavior: The key ends at the first dot of the file's name, so "St. Bernard" and "St. Lucia" become one sample "St" whose
#           fields are called " bernard.jpg" and " lucia.jpg", and no image field is left. Only neighbors in the tar are
#           joined: a tar with all images first and all captions after them gives each sample twice, once without its
#           caption and once without its image. A file without a dot is left out without a word.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet webdataset==1.0.2 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
import io
import sys
import tarfile

import webdataset

for number, names in enumerate(
    (
        ["St. Bernard.jpg", "St. Bernard.txt", "St. Lucia.jpg"],
        ["fox.jpg", "hen.jpg", "fox.txt", "hen.txt"],
        ["README", "fox.jpg"],
    )
):
    path = f"{sys.argv[1]}/{number}.tar"
    with tarfile.open(path, "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    samples = webdataset.WebDataset(path, shardshuffle=False)
    print([(sample["__key__"], [field for field in sample if not field.startswith("__")]) for sample in samples])
PY
cat >"$folder/expected" <<'OUT'
[('St', [' bernard.jpg', ' bernard.txt', ' lucia.jpg'])]
[('fox', ['jpg']), ('hen', ['jpg']), ('fox', ['txt']), ('hen', ['txt'])]
[('fox', ['jpg'])]
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" "$folder" 2>/dev/null | diff "$folder/expected" - && echo "as found"
