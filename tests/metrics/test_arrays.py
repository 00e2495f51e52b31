"""Features of any kind, cosine scores, and bad input."""

import math

import numpy as np
import pytest
import torch

from tessera.config import UserError
from tessera.metrics import (
    Moments,
    cmmd,
    cosine_scores,
    frechet_distance,
    kid,
    prdc,
)
from tiny.features import features


def test_torch_features_of_any_precision():
    x, y = features(60, 5), features(70, 5, seed=1)
    assert frechet_distance(torch.tensor(x), torch.tensor(y)) == frechet_distance(x, y)
    half = torch.tensor(x).bfloat16()
    assert frechet_distance(half, y) == frechet_distance(half.double().numpy(), y)


def test_cosine_scores():
    a, b = np.array([[1.0, 0], [2, 2], [0, -3]]), np.array([[5.0, 0], [0, 1], [0, 1]])
    np.testing.assert_allclose(cosine_scores(a, b), [1, math.sqrt(0.5), -1], rtol=1e-12)
    torch.testing.assert_close(
        torch.tensor(cosine_scores(features(9, 7), features(9, 7, seed=1))),
        torch.cosine_similarity(torch.tensor(features(9, 7)), torch.tensor(features(9, 7, seed=1))),
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: frechet_distance(np.zeros((1, 3)), np.zeros((5, 3))), "real: 1 images"),
        (lambda: frechet_distance(np.zeros((5, 3)), np.zeros((5, 4))), "4 wide"),
        (lambda: frechet_distance(np.zeros(5), np.zeros((5, 4))), "shape"),
        (lambda: frechet_distance(np.full((5, 3), np.nan), np.zeros((5, 3))), "NaN"),
        (lambda: prdc(np.zeros((3, 3)), np.zeros((5, 3)), 3), "real: 3 images"),
        (lambda: prdc(np.zeros((3, 3)), np.zeros((5, 3)), 0), "k: 0"),
        (lambda: kid(np.zeros((1, 3)), np.zeros((5, 3))), "real: 1 images"),
        (lambda: kid(np.zeros((4, 3)), np.zeros((5, 3)), size=1), "subset"),
        (lambda: cmmd(np.zeros((4, 3)), np.ones((5, 3))), "real: an embedding is zero"),
        (lambda: cosine_scores(np.ones((3, 3)), np.ones((2, 3))), "pairs"),
        (lambda: cosine_scores(np.ones((3, 3)), np.zeros((3, 3))), "zero"),
        (lambda: Moments(3).covariance, "at least 2"),
        (lambda: Moments(3).update(np.zeros((2, 4))), "4 wide"),
    ],
)
def test_bad_input_is_a_user_error(call, words):
    with pytest.raises(UserError, match=words):
        call()
