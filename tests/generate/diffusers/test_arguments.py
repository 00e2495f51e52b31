"""Arguments of a call: the wrong ones are named in one line."""

import warnings

import numpy as np
import pytest
import torch

from tessera.config import UserError
from tiny.pipelines import generators, levels


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prompt": 3}, "prompt: .* not int"),
        ({"prompt": None}, "prompt: .* not NoneType"),
        ({"prompt": []}, "prompt: the list is empty"),
        ({"prompt": ["a", b"b"]}, "number 1 of the list is bytes"),
        ({"negative_prompt": 1.5}, "negative_prompt: .* not float"),
        ({"negative_prompt": ["a", "b"]}, "negative_prompt: 2 for 1 prompts"),
        ({"num_inference_steps": 0}, "num_inference_steps: 0"),
        ({"num_inference_steps": 2.5}, "num_inference_steps: 2.5"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt: 0"),
        ({"guidance_scale": float("nan")}, "guidance scale: nan"),
        ({"guidance_scale": "high"}, "guidance_scale: 'high'"),
        ({"height": 17}, "height: 17 is not a multiple of 8; this model draws 16 x 16"),
        ({"width": 64}, "width: 64 is another size"),
        ({"width": "16"}, "width: 16 is not a multiple"),
        ({"generator": generators(2)}, "generator: 2 generators for 1 images"),
        ({"generator": 7}, "generator: int is not a torch.Generator"),
        ({"generator": [7]}, "generator: int is not a torch.Generator"),
        ({"output_type": "PIL"}, "output_type: unknown 'PIL'.*pil, np, pt, latent"),
        ({"output_type": None}, "output_type: unknown None"),
        ({"sampler": "ddmi"}, "unknown sampler 'ddmi'.*ddim"),
        ({"latents": torch.zeros(1, 48, 4, 5)}, r"latents: \(1, 48, 4, 5\)"),
        ({"callback_on_step_end": lambda *_: {"latents": torch.zeros(1)}}, "callback_on_step_end"),
    ],
)
def test_mistakes_in_a_call_are_named_in_one_line(pipe, arguments, named):
    with pytest.raises(UserError, match=named) as raised:
        pipe(**({"prompt": "a fox"} | arguments))
    assert "\n" not in str(raised.value)
    assert pipe("a fox", height=16, width=16).images[0].size == (16, 16)


def test_a_long_prompt_is_cut_with_a_warning(pipe, noise):
    words = [f"word{k}" for k in range(600)]
    with pytest.warns(UserWarning, match="has 601 tokens, the text encoder reads the first 256") as seen:
        pipe(" ".join(words), latents=noise[:1])
    assert len(seen) == 1
    assert seen[0].filename == __file__
    with warnings.catch_warnings(action="ignore"):
        cut = levels(pipe, " ".join(words), latents=noise[:1])
    np.testing.assert_array_equal(cut, levels(pipe, " ".join(words[:255]), latents=noise[:1]))
    with pytest.warns(UserWarning, match="601 tokens"):
        pipe("a fox", negative_prompt=" ".join(words))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe(" ".join(words[:255]))
