"""The pretrained networks of a training, which `tessera.train` does not import: it is given their functions."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tessera.devices import pick_device
from tessera.encoded.store import EncodedStore
from tessera.pretrained.text_encoders import load_text_encoder
from tessera.pretrained.vae import load_codec


def networks_of_training(
    stores: Sequence[EncodedStore],
    latents: str | None,
    text: str | None,
    device: str | None,
    *,
    draws: bool,
    run_files: bool = False,
) -> tuple[Callable[..., Any] | None, Callable[..., Any] | None]:
    """Return an encoder of captions, None unless one of the sets holds no text, and where images are drawn a decoder of
    latents, whose weights are read by the rank that decodes.

    latents, text: names of codec and encoder; None = there is none. run_files: as for `load_codec`. On CUDA the encoder
    computes in bf16 and on a stream of its own: the loader's threads, which call it, wait for its texts alone, not for
    the steps under way.
    """
    encode_text = decode = None
    if text is not None and any(store.text_encoding == "none" for store in stores):
        where = pick_device(device)
        on_cuda = where.type == "cuda"
        dtype = torch.bfloat16 if on_cuda else torch.float32
        encode_text = load_text_encoder(text, where, dtype, run_files=run_files).encode
        if on_cuda:
            encode_text = _on_own_stream(encode_text, where)
    if draws and latents is not None:
        decode = load_codec(latents, pick_device(device), load=False, run_files=run_files).decode
    return encode_text, decode


def _on_own_stream(encode_text: Callable[[Sequence[str]], Any], device: torch.device) -> Callable[[Sequence[str]], Any]:
    """Return `encode_text` on a CUDA stream of its own, begun after what the device was given before."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))

    def encode(texts: Sequence[str]) -> Any:
        with torch.cuda.stream(stream):
            return encode_text(texts)

    return encode
