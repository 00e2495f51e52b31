"""The detector that ships with tessera: its bytes, their hash, and that they are weights of the detector."""

import hashlib

from safetensors.torch import load

from tessera.evaluate.miniature.detector import Detector
from tessera.evaluate.miniature.shipped import detector_sha256, detector_weights


def test_the_hash_is_that_of_the_bytes():
    assert detector_sha256() == hashlib.sha256(detector_weights()).hexdigest()


def test_the_bytes_are_weights_of_the_detector_in_half_precision():
    state, network = load(detector_weights()), Detector().state_dict()
    assert {str(value.dtype) for value in state.values()} == {"torch.float16"}
    assert all(value.shape == network[name].shape for name, value in state.items())
    assert {name for name in network if name.endswith(("weight", "bias"))} <= state.keys()
