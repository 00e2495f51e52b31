"""Addressed randomness."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.config import UserError
from tessera.randomness import address, philox


def test_philox_values_never_change():
    """These numbers are in every data set and run made so far: a change would make other ones."""
    assert philox(0, "noise").integers(0, 1000, 5).tolist() == [906, 544, 828, 198, 508]
    assert philox(7, "draws", 3).random() == pytest.approx(0.31434978217051357, abs=1e-15)
    assert address("a", 1) == 8386438613850442696


@given(st.integers(0, 2**64 - 1), st.text(max_size=5), st.integers(0, 2**64 - 1))
def test_philox_is_a_function_of_its_address(seed, purpose, counter):
    expected = philox(seed, purpose, counter).random(4)
    assert (philox(seed, purpose, counter).random(4) == expected).all()
    assert (philox(seed ^ 1, purpose, counter).random(4) != expected).all()
    assert (philox(seed, purpose + "x", counter).random(4) != expected).all()
    assert (philox(seed, purpose, counter ^ 1).random(4) != expected).all()


def test_philox_streams_of_neighbouring_counters_share_nothing():
    streams = np.stack([philox(1, "noise", counter).integers(0, 2**63, 1000) for counter in range(20)])
    assert len(np.unique(streams)) == streams.size


def test_philox_is_standard_normal():
    values = np.concatenate([philox(3, "noise", counter).standard_normal(100) for counter in range(1000)])
    assert abs(values.mean()) < 0.015
    assert abs(values.var() - 1) < 0.025


@pytest.mark.parametrize(("seed", "counter"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**64)])
def test_philox_range(seed, counter):
    with pytest.raises(UserError, match="must be in"):
        philox(seed, "x", counter)


def test_address_tells_parts_apart():
    parts = [
        (),
        ("",),
        ("", ""),
        ("ab",),
        ("a", "b"),
        ("b", "a"),
        ("1",),
        (1,),
        (-1,),
        ("i1:1",),
        (1, "1"),
        ("1", 1),
        (11,),
    ]
    addresses = [address(*part) for part in parts]
    assert len(set(addresses)) == len(parts)
    assert all(0 <= value < 2**63 for value in addresses)
    assert address(np.int64(1)) == address(1)
