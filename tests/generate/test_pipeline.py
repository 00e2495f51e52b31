import numpy as np
import pytest
import torch

from tessera.config import UserError
from tessera.generate.pipeline import SAMPLES_PER_PROMPT, Pipeline, sample_noise
from tessera.randomness import philox
from tessera.weights.export import CaptionsSeen
from tiny.defaults import CHOICES, torch_defaults

PROMPTS = ["a red circle", "a blue square to the left of a green heart on pale yellow sand", "a star", "two moons", "x"]
ADDRESSES = [(0, 0), (1, 0), (1, 1), (7, 0), (70_000, 3)]


@pytest.fixture(scope="module")
def pipeline(export):
    return Pipeline.load(export, device="cpu")


def test_pictures_have_the_right_form_and_are_repeatable(pipeline):
    first = pipeline.images(PROMPTS, ADDRESSES, seed=3)
    assert first.dtype == np.uint8
    assert first.shape == (5, 16, 16, 3)
    np.testing.assert_array_equal(first, pipeline.images(PROMPTS, ADDRESSES, seed=3))


def test_a_picture_is_the_same_in_any_batch(pipeline):
    together = pipeline.images(PROMPTS, ADDRESSES, seed=1).astype(int)
    alone = [pipeline.images([p], [a], seed=1)[0].astype(int) for p, a in zip(PROMPTS, ADDRESSES)]
    assert np.abs(together - np.stack(alone)).max() <= 1


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"steps": 4},
        {"guidance_scale": 1.0},
        {"sampler": "dpmpp_2m"},
        {"sampler": "ddpm"},
        {"guidance_interval": (0.0, 0.5)},
    ],
)
def test_every_setting_has_an_effect(pipeline, change):
    base = pipeline.images(PROMPTS[:2], ADDRESSES[:2], seed=1)
    assert not np.array_equal(base, pipeline.images(PROMPTS[:2], ADDRESSES[:2], **{"seed": 1, **change}))


def test_blocks_are_compiled_when_asked(export, monkeypatch):
    compiled = []
    monkeypatch.setattr("tessera.generate.pipeline.compile_blocks", compiled.append)
    other = Pipeline.load(export, device="cpu", compile=True)
    assert compiled == [other.network]


def test_the_text_has_an_effect(pipeline):
    one, other = (pipeline.images([text], [(0, 0)]) for text in ("a red circle", "a blue circle"))
    assert not np.array_equal(one, other)


def test_ddpm_noise_does_not_depend_on_the_batch(pipeline):
    together = pipeline.images(PROMPTS, ADDRESSES, seed=1, sampler="ddpm").astype(int)
    alone = pipeline.images(PROMPTS[3:4], ADDRESSES[3:4], seed=1, sampler="ddpm").astype(int)
    assert np.abs(together[3] - alone[0]).max() <= 1


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "heun"])
def test_a_programs_own_torch_defaults_change_no_image(export, pipeline, sampler, choice):
    expected = pipeline.images(PROMPTS[:2], ADDRESSES[:2], seed=1, sampler=sampler)
    with torch_defaults(choice):
        drawn = pipeline.images(PROMPTS[:2], ADDRESSES[:2], seed=1, sampler=sampler)
        loaded = Pipeline.load(export, device="cpu").images(PROMPTS[:2], ADDRESSES[:2], seed=1, sampler=sampler)
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(loaded, expected)


def test_defaults_are_the_exports(pipeline):
    spelled = pipeline.images(PROMPTS, ADDRESSES, steps=3, guidance_scale=2.0, sampler="ddim")
    np.testing.assert_array_equal(pipeline.images(PROMPTS, ADDRESSES), spelled)


def test_noise_has_an_address():
    noise = sample_noise((4, 8, 8), [(3, 2), (0, 1)], seed=5)
    assert noise.dtype == torch.float32
    expected = philox(5, "sample", 3 * SAMPLES_PER_PROMPT + 2).standard_normal((4, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(noise[0].numpy(), expected)
    for wrong in [(-1, 0), (0, -1), (0, SAMPLES_PER_PROMPT)]:
        with pytest.raises(UserError, match="address"):
            sample_noise((4, 8, 8), [wrong], seed=5)


def test_latents_are_put_back_on_the_codecs_scale(tmp_path, make_export, pipeline):
    """Decoding undoes (codec's latents - shift) * scale, with one number and with one for each channel."""
    shifts = tuple(0.01 * channel for channel in range(48))
    other = Pipeline.load(make_export(tmp_path / "e", latent_scale=(4.0,), latent_shift=shifts), device="cpu")
    pictures = philox(0, "test").integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    latents = torch.from_numpy(pipeline.codec.encode(pictures)[0])  # (2, 48, 4, 4)
    normalized = (latents - torch.tensor(shifts)[:, None, None]) * 4
    np.testing.assert_array_equal(other.decode(normalized), pictures)
    np.testing.assert_array_equal(pipeline.decode(latents), pictures)


def test_user_mistakes_are_named(pipeline, tmp_path):
    with pytest.raises(UserError, match="sampler"):
        pipeline.images(PROMPTS, ADDRESSES, sampler="ddmi")
    with pytest.raises(UserError, match="steps"):
        pipeline.images(PROMPTS, ADDRESSES, steps=0)
    with pytest.raises(UserError, match="guidance"):
        pipeline.images(PROMPTS, ADDRESSES, guidance_scale=float("nan"))
    with pytest.raises(UserError, match="one address for each image"):
        pipeline.images(PROMPTS, ADDRESSES[:2])
    with pytest.raises(UserError, match="finite"):
        pipeline.decode(torch.full((1, 48, 4, 4), float("nan")))
    with pytest.raises(UserError, match="export"):
        Pipeline.load(tmp_path / "nothing", device="cpu")


def test_half_precision_weights_draw_nearly_the_same(export, pipeline):
    half = Pipeline.load(export, device="cpu", dtype=torch.bfloat16)
    difference = half.images(PROMPTS, ADDRESSES).astype(int) - pipeline.images(PROMPTS, ADDRESSES).astype(int)
    assert np.abs(difference).mean() < 8


def test_prompts_unlike_the_captions_are_noted(make_export, tmp_path):
    words = ("a", "an", "and", "apple", "circle", "of", "red")
    seen = CaptionsSeen(tokens=(6, 8), vocabulary=words)
    pipeline = Pipeline.load(make_export(tmp_path / "known", captions=seen), device="cpu")
    assert pipeline.unlike_captions(["a red circle and an apple", "A red apple."]) == ""  # 7 and 4 tokens
    assert pipeline.unlike_captions(["a scarlet apple and a red Kitten"]) == (
        "words of no training caption mean nothing to this model: 'scarlet', 'kitten'"
    )
    many = pipeline.unlike_captions([f"a red circle of unknown{n}" for n in range(7)])
    assert many.endswith("'unknown0', 'unknown1', 'unknown2', 'unknown3', 'unknown4' and 2 more")
    assert pipeline.unlike_captions(["circle", "circle", "a red circle of red", " ".join(12 * ["red"])]) == (
        "1 of 3 prompts are short for a model that learned from captions of 6 to 8 tokens; "
        "1 of 3 prompts are long for a model that learned from captions of 6 to 8 tokens"
    )
    assert pipeline.unlike_captions(["red"]).startswith("the prompt is short for a model")
    reads_all = make_export(tmp_path / "any", captions=CaptionsSeen(tokens=(2, 8)))
    assert Pipeline.load(reads_all, device="cpu").unlike_captions(["a scarlet kitten"]) == ""


def test_without_facts_about_captions_nothing_is_noted(pipeline):
    assert pipeline.unlike_captions(["", "word " * 1000]) == ""


def test_images_of_the_sizes_that_it_was_trained_at(make_export, tmp_path, pipeline):
    """Wide ones are drawn from the same address; the square's are what they are without."""
    several = Pipeline.load(make_export(tmp_path / "export", sizes=("16x16", "24x8", "8x24")), device="cpu")
    for size, shape in (("24x8", (8, 24)), ("8x24", (24, 8)), ("16x16", (16, 16))):
        drawn = several.images(PROMPTS, ADDRESSES, seed=3, size=size)
        assert drawn.shape == (5, *shape, 3)
    np.testing.assert_array_equal(drawn, several.images(PROMPTS, ADDRESSES, seed=3))
    with pytest.raises(UserError, match="size: '32x8' is none that this model was trained at; give one of 16x16, 24x8"):
        several.images(PROMPTS, ADDRESSES, size="32x8")
    with pytest.raises(UserError, match=r"give one of 16x16$"):
        pipeline.images(PROMPTS, ADDRESSES, size="24x8")


def test_a_model_that_saw_no_squares_draws_the_size_most_like_one(make_export, tmp_path):
    wide = Pipeline.load(make_export(tmp_path / "export", sizes=("8x24", "24x8", "24x16")), device="cpu")
    assert wide.images(PROMPTS, ADDRESSES).shape[1:3] == (16, 24)
