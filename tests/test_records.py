"""Records refuse what cannot be, and padding changes nothing but the length."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessera.config import UserError, from_dict, to_dict
from tessera.records import Batch, Placement, Scene, SceneObject, TextEncoding


def scene_object(**changes):
    values = {
        "shape": "star",
        "color": "red",
        "texture": "plain",
        "size": "small",
        "center": (0.5, 0.4),
        "diameter": 0.3,
    }
    return SceneObject(**{**values, **changes})


def test_scene_round_trip():
    scene = Scene(objects=(scene_object(), scene_object(shape="moon")), backgrounds=("sky",), seed=3)
    assert from_dict(Scene, to_dict(scene)) == scene


@pytest.mark.parametrize(
    "change", [{"diameter": 0.0}, {"diameter": 1.1}, {"center": (0.5, 1.2)}, {"center": (-0.1, 0)}, {"center": (0.5,)}]
)
def test_scene_object_ranges(change):
    with pytest.raises(UserError, match=next(iter(change))):
        scene_object(**change)


def test_placement_at_the_edges():
    assert Placement("half", (16, 0, 32, 32), 32).box == (16, 0, 32, 32)


@pytest.mark.parametrize(
    "box", [(-1, 0, 4, 4), (0, 0, 33, 4), (0, -1, 4, 4), (0, 0, 4, 33), (4, 0, 4, 4), (0, 5, 4, 4)]
)
def test_placement_box_must_be_inside_and_not_empty(box):
    with pytest.raises(UserError, match="placement"):
        Placement("quarter", box, 32)


def make_items(lengths, width=3):
    generator = np.random.default_rng(0)
    return [generator.standard_normal((length, width)).astype(np.float32) for length in lengths]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_stack_keeps_tokens_and_masks_the_rest(lengths):
    items = make_items(lengths)
    text = TextEncoding.stack(items)
    assert text.embeddings.shape == (len(lengths), max(lengths), 3)
    assert text.mask.dtype == torch.bool
    assert text.mask.sum(dim=1).tolist() == lengths
    for row, item in enumerate(items):
        np.testing.assert_array_equal(text.embeddings[row, : len(item)].numpy(), item)
        assert text.mask[row, : len(item)].all()
    assert (text.embeddings[~text.mask] == 0).all()


def test_stack_of_tensors_keeps_the_dtype():
    assert TextEncoding.stack([torch.ones(2, 3, dtype=torch.bfloat16)]).embeddings.dtype == torch.bfloat16


def test_pad_to():
    text = TextEncoding.stack(make_items([2, 4]))
    padded = text.pad_to(7)
    assert padded.embeddings.shape == (2, 7, 3)
    assert torch.equal(padded.embeddings[:, :4], text.embeddings)
    assert torch.equal(padded.mask[:, :4], text.mask)
    assert not padded.embeddings[:, 4:].any()
    assert not padded.mask[:, 4:].any()
    assert torch.equal(text.pad_to(4).mask, text.mask)
    with pytest.raises(ValueError, match="4 tokens cannot be padded to 3"):
        text.pad_to(3)


def test_select_and_to():
    text = TextEncoding.stack(make_items([2, 4, 1]))
    chosen = text.select(torch.tensor([2, 0]))
    assert torch.equal(chosen.embeddings, text.embeddings[[2, 0]])
    assert torch.equal(chosen.mask, text.mask[[2, 0]])
    assert text.select(slice(1, None)).mask.shape == (2, 4)
    cast = text.to("cpu", torch.bfloat16)
    assert cast.embeddings.dtype == torch.bfloat16
    assert cast.mask.dtype == torch.bool
    assert text.to("cpu").embeddings.dtype == torch.float32


def test_batch_moves_whole():
    text = TextEncoding.stack(make_items([2, 4]))
    latents, per_sample = torch.zeros(2, 1, 2, 2), torch.zeros(2)
    batch = Batch(latents, text, per_sample, per_sample, latents, per_sample.bool(), per_sample.long())
    moved = batch.to("meta")
    tensors = [moved.latents, moved.text.embeddings, moved.text.mask, moved.t, moved.alpha_bar, moved.noise]
    assert {tensor.device.type for tensor in [*tensors, moved.dropped, moved.numbers]} == {"meta"}
    assert moved.numbers.dtype == torch.int64


def test_null_rows_stay_known_where_rows_stay():
    text = TextEncoding(torch.zeros(3, 2, 4), torch.ones(3, 2, dtype=torch.bool), null_rows=1)
    assert text.to(dtype=torch.float16).null_rows == 1
    assert text.pad_to(5).null_rows == 1
    assert text.select([2, 0]).null_rows == 0
