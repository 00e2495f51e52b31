#!/usr/bin/env bash
# Version:  datasets 5.2.0
# Guess:    class_encode_column("label") on a column of class numbers declares them as classes (a stratified
#           train_test_split asks for that) and keeps the numbers: class 2 stays 2, in each split.
# Behavior: The numbers are made texts, sorted as texts and numbered anew: of 12 classes, class 10 becomes 2 and class
#           2 becomes 4. A split without some of the classes gets another numbering than the whole set. A list of
#           names, or a network's table of classes, now names other images, without an error. cast_column with a
#           ClassLabel of as many classes keeps the numbers.
# Output:   see the lines after "expected" below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet datasets==5.2.0 numpy==2.4.6 >/dev/null
cat >"$folder/try.py" <<'PY'
from datasets import ClassLabel, Dataset

for said, numbers in (("10 classes", range(10)), ("12 classes", range(12)), ("3 of them", (2, 10, 11))):
    plain = Dataset.from_dict({"label": list(numbers)})
    encoded = plain.class_encode_column("label")
    cast = plain.cast_column("label", ClassLabel(num_classes=12))
    print(said, encoded["label"][:], encoded.features["label"].names)
    print(said, cast["label"][:], "by cast_column")
PY
cat >"$folder/expected" <<'OUT'
10 classes [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9']
10 classes [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] by cast_column
12 classes [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3] ['0', '1', '10', '11', '2', '3', '4', '5', '6', '7', '8', '9']
12 classes [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11] by cast_column
3 of them [2, 0, 1] ['10', '11', '2']
3 of them [2, 10, 11] by cast_column
OUT
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null |
	diff "$folder/expected" - && echo "as found"
