"""What a training loads of pretrained networks, and where."""

import contextlib
from types import SimpleNamespace

import torch

from tessera.pretrained import training
from tessera.pretrained.training import networks_of_training


def stores(*kinds):
    """Return sets whose texts are stored in these ways."""
    return [SimpleNamespace(text_encoding=kind) for kind in kinds]


def test_what_is_loaded_for_a_training_is_on_its_device_and_never_in_the_way_of_its_steps(monkeypatch):
    """Without a GPU: what a GPU would be asked for."""
    loaded, streams = {}, []

    class Part:
        def encode(self, texts):
            return [*streams, texts]

        decode = None

    def load(name, *arguments, **options):
        loaded[name] = (*arguments, options)
        return Part()

    class Stream:
        def __init__(self, device):
            self.waited, self.device = [], device

        def wait_stream(self, other):
            self.waited.append(other)

    @contextlib.contextmanager
    def current(stream):
        streams.append((stream.device, stream.waited))
        yield
        streams.pop()

    monkeypatch.setattr(training, "load_text_encoder", load)
    monkeypatch.setattr(training, "load_codec", load)
    monkeypatch.setattr(training, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the default of {device}")
    names, gpu = ("pixel-unshuffle:4", "words:64"), torch.device("cuda:1")
    encode_text, _ = networks_of_training(stores("int8", "none"), *names, "cuda:1", draws=True)
    assert loaded == {
        "words:64": (gpu, torch.bfloat16, {"run_files": False}),
        "pixel-unshuffle:4": (gpu, {"load": False, "run_files": False}),
    }
    assert encode_text(["a"]) == [(gpu, ["the default of cuda:1"]), ["a"]]
    networks_of_training(stores("none"), *names, "cpu", draws=True)
    assert loaded["words:64"] == (torch.device("cpu"), torch.float32, {"run_files": False})


def test_only_what_is_needed_is_loaded():
    assert networks_of_training(stores("int8", "fp16"), "own.py:codec", "own.py:text", "cpu", draws=False) == (
        None,
        None,
    )
    assert networks_of_training(stores("none"), None, None, "cpu", draws=True) == (None, None)
