#!/usr/bin/env bash
# Version:  vendi-score 0.0.3 (score_X, score_K), scipy 1.17.1
# Guess:    The Vendi score is the number of different images that a set is worth, and q is its order: a small q counts
#           rare images fully, a large one what is common. score_X(X, q=2), of embeddings, is score_K(X @ X.T, q=2), and
#           a similarity matrix that is kept sparse, as a large one with few entries is, scores as the dense one does.
# Behavior: score_X takes q and always computes order 1: whichever q is asked for, the number is the same. score_dual,
#           for sets of more images than dimensions, uses q, so a study of sets of both sizes compares different scores.
#           And of a sparse matrix only the six largest eigenvalues are used: 100 images, all different, have a score of
#           1.3 in place of 100, less than two kinds of image have. Sets of a few kinds are right. Nothing is said.
#           score_K(X @ X.T, q=q), and score_K(K.toarray()) of a sparse K, are right.
# Output:   scores of 50 embeddings of ten kinds, 41 of one kind and one of each other, by the definition and by the
#           package, and of 100 images in equal kinds, as a dense and as a sparse matrix; see the lines after "expected"
#           below.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet vendi-score==0.0.3 numpy==2.4.6 scipy==1.17.1 scikit-learn==1.9.1 >/dev/null
cat >"$folder/try.py" <<'PY'
import numpy as np
from scipy import sparse
from vendi_score import vendi


def embeddings(counts, dimensions=64):
    """Return unit vectors (images, dimensions) of as many orthogonal kinds as there are counts."""
    return np.repeat(np.eye(dimensions)[: len(counts)], counts, axis=0)


def defined(counts, q):
    """Return the Vendi score of order q of kinds that have nothing in common: their Hill number."""
    p = np.array(counts) / sum(counts)
    if q == "inf":
        return 1 / p.max()
    return np.exp(-(p * np.log(p)).sum()) if q == 1 else (p**q).sum() ** (1 / (1 - q))


counts = [41] + [1] * 9
for q in (0.5, 1, 2, "inf"):
    few = embeddings(counts)
    scores = vendi.score_K(few @ few.T, q=q), vendi.score_dual(few, q=q), vendi.score_X(few, q=q)
    print(f"order {q}: defined {defined(counts, q):.2f}, score_K %.2f, score_dual %.2f, score_X %.2f" % scores)
for kinds in (2, 5, 10, 50, 100):
    x = embeddings([100 // kinds] * kinds, 100)
    K = x @ x.T
    print(f"{kinds} kinds: dense {vendi.score_K(K):.1f}, sparse {vendi.score_K(sparse.csr_matrix(K)):.1f}")
PY
cat >"$folder/expected" <<'OUT'
order 0.5: defined 4.75, score_K 4.75, score_dual 4.75, score_X 2.38
order 1: defined 2.38, score_K 2.38, score_dual 2.38, score_X 2.38
order 2: defined 1.48, score_K 1.48, score_dual 1.48, score_X 2.38
order inf: defined 1.22, score_K 1.22, score_dual 1.22, score_X 2.38
2 kinds: dense 2.0, sparse 2.0
5 kinds: dense 5.0, sparse 5.0
10 kinds: dense 10.0, sparse 4.0
50 kinds: dense 50.0, sparse 1.6
100 kinds: dense 100.0, sparse 1.3
OUT
"$folder/venv/bin/python" -W ignore "$folder/try.py" 2>/dev/null | diff "$folder/expected" - && echo "as found"
