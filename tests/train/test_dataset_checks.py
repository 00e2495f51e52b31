"""Encoded sets that fit the model and each other, and those that do not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.config import UserError
from tessera.curate.caption.caption import CaptionConfig, caption
from tessera.curate.caption.table import read_levels
from tessera.curate.collect.collect import CollectConfig, collect
from tessera.curate.encode import EncodeConfig, encode
from tessera.encoded.record import pack_floats
from tessera.encoded.seams import Seams
from tessera.encoded.store import open_encoded
from tessera.miniature import WorldConfig
from tessera.pretrained.text_encoders import Words
from tessera.randomness import philox
from tessera.stages import open_stage
from tessera.train.algorithm1 import CaptionMix
from tessera.train.dataset_checks import (
    captions_seen,
    check_margin,
    check_mix,
    check_normalization,
    check_sentences,
    check_sets,
    check_starts,
    level_numbers,
)
from tessera.train.export import export
from tessera.train.loop import train
from tessera.train.optim.config import OptimConfig
from tessera.weights.export import load_export
from tiny.training_sets import DIT, SHAPE, WIDTH, config_of, make_records, with_short, write_set


def check(plain: Path, augmented: Path | None, shape=SHAPE, width=WIDTH):
    stores = open_encoded(plain), None if augmented is None else open_encoded(augmented)
    model = replace(DIT, latent_channels=shape[0], latent_size=shape[1], text_width=width)
    return check_sets(*stores, model=model)


def test_facts_of_fitting_sets(plain, augmented):
    facts = check(plain, augmented)
    assert facts["latent_codec"] == "pixel-unshuffle:4"
    assert facts["arm"] == "ta_ia"
    assert check(plain, None)["arm"] == "ta"


def test_arm_of_short_captions(tmp_path, augmented):
    named = write_set(tmp_path / "aio", make_records(2), captioner="aio")
    assert check(named, None)["arm"] == "aio"
    assert check(named, augmented)["arm"] == "aio_ia"  # the preset my-pictures, where no captions are given


def test_other_shapes_are_named(plain):
    with pytest.raises(
        UserError, match=r"plain: latents are \(4, 4, 4\), the model's config says \(4, 8, 8\); .* with --fit"
    ):
        check(plain, None, shape=(4, 8, 8))
    with pytest.raises(UserError, match="text is 16 wide, the model's config has text_width 32"):
        check(plain, None, width=32)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("latent_codec", "vae:x"),
        ("text_encoder", "words:17"),
        ("image_size", 32),
        ("null_condition", pack_floats(np.ones((1, WIDTH)))),
    ],
)
def test_sets_of_different_encoders_are_refused(plain, tmp_path, fact, value):
    other = write_set(tmp_path / "other", make_records(3), **{fact: value})
    with pytest.raises(UserError, match=f"other: {fact} differs from that of .*plain"):
        check(plain, other)


def test_sets_of_one_encoder_on_two_machines_fit(plain, tmp_path):
    """Another GPU, or bfloat16, rounds the encoding of the empty text otherwise; the network is known by its files."""
    null = open_encoded(plain).null_condition
    noise = philox(0, "rounding").uniform(-1, 1, null.shape).astype(np.float32)
    for share in (1e-6, 4e-3):
        near = write_set(tmp_path / str(share), make_records(3), null_condition=pack_floats(null * (1 + share * noise)))
        assert check(plain, near)["null_condition"] == open_encoded(plain).facts["null_condition"]
    far = write_set(tmp_path / "far", make_records(3), null_condition=pack_floats(null * (1 + 0.2 * noise)))
    with pytest.raises(UserError, match="far: null_condition differs"):
        check(plain, far)


def test_an_empty_set_is_refused(plain, tmp_path):
    with pytest.raises(UserError, match="nothing: has no shards"):
        check(plain, write_set(tmp_path / "nothing", []))


def test_a_set_without_text_is_refused(tmp_path):
    records = [replace(r, text_codes=None, text_scale=None) for r in make_records(3)]
    silent = write_set(tmp_path / "silent", records, text="none")
    with pytest.raises(UserError, match="silent: holds no text"):
        check(silent, None)


def made(directory: Path, stage: str, **inputs: Path) -> Path:
    """A finished directory of that stage, such as `tessera collect` or `tessera augment` leave."""
    open_stage(directory, stage=stage, config={"of": str(directory.name)}, inputs=inputs).finish({})
    return directory


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """plain and mixed, encoded from the collection a; other and other-mixed from the collection b."""
    root = tmp_path_factory.mktemp("roles")
    for images, names in (("a", ("plain", "mixed")), ("b", ("other", "other-mixed"))):
        images = made(root / images, "collect")
        recipe = made(root / f"recipe-{images.name}", "augment", images=images)
        write_set(root / names[0], make_records(5), inputs={"images": images})
        write_set(root / names[1], make_records(5, seed=1), inputs={"images": images, "recipe": recipe})
    write_set(root / "written", make_records(5))
    return root


@pytest.mark.parametrize(
    ("plain", "augmented", "message"),
    [
        ("mixed", "plain", "mixed: holds augmented images .* give it as --augmented"),
        ("mixed", None, "mixed: holds augmented images"),
        ("mixed", "mixed", "mixed: holds augmented images"),
        ("mixed", "written", "mixed: holds augmented images"),
        ("plain", "other", "other: holds plain images .* encoded with --recipe"),
        ("plain", "plain", "plain: holds plain images"),
        ("written", "plain", "plain: holds plain images"),
        ("written", "written", "written: is given as --plain and as --augmented; give two sets"),
        ("plain", "other-mixed", "other-mixed: was encoded from other images than .*plain .* one directory"),
        ("other", "mixed", "mixed: was encoded from other images than .*other"),
    ],
)
def test_sets_in_each_others_place_are_refused(workspace, plain, augmented, message):
    with pytest.raises(UserError, match=message) as error:
        check(workspace / plain, augmented and workspace / augmented)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("plain", "augmented"),
    [("plain", "mixed"), ("plain", None), ("other", "other-mixed"), ("written", "mixed"), ("plain", "written")],
)
def test_sets_in_their_places_fit(workspace, plain, augmented):
    assert check(workspace / plain, augmented and workspace / augmented)["arm"] == ("ta_ia" if augmented else "ta")


def test_a_set_by_another_path_is_the_same_set(workspace, tmp_path):
    (tmp_path / "link").symlink_to(workspace / "written")
    with pytest.raises(UserError, match="link: is given as --plain and as --augmented"):
        check(workspace / "written", tmp_path / "link")


def test_a_vae_that_asks_for_another_normalization_is_named(tmp_path, plain):
    assert check_normalization(open_encoded(plain), (0.0,), (0.18215,)) == []  # the manifest says nothing of it
    four: dict[str, Any] = {"latent_shift": [0.5, 0, 0, 0.25], "latent_scale": [2.0, 1, 1, 1]}
    store = open_encoded(write_set(tmp_path / "set", make_records(2), latent_codec="vae@0123456789ab", **four))
    assert check_normalization(store, (0.5, 0, 0, 0.25), (2, 1, 1, 1)) == []
    (said,) = check_normalization(store, (0.0,), (0.18215,))
    asks = "vae@0123456789ab asks for latent_shift 0.5, 0, 0, 0.25, latent_scale 2, 1, 1, 1"
    assert said == f"{store.directory}: {asks}; --fit takes that instead of the preset's"


MIX = CaptionMix(levels=("short", "long"), weights=(0.5, 0.5))


def test_levels_of_a_mix_are_found_in_the_sets(tmp_path, plain):
    records, levels = with_short(make_records(10)), ("long", "short")
    counts = {"long": 8, "short": 8}
    both, one = open_encoded(write_set(tmp_path / "both", records, levels=levels)), open_encoded(plain)
    assert level_numbers(MIX, both) == [0, 1, 0]
    assert level_numbers(None, both) == [0]
    assert level_numbers(MIX, one) == [0, 0, 0]
    assert check_mix(MIX, both) == check_mix(None, both, one) == []  # its manifest does not say how many there are
    wrong = replace(MIX, levels=("shrt", "long"))
    with pytest.raises(UserError, match=r"no captions of the level 'shrt'; did you mean 'short'\? it has long, short"):
        check_mix(wrong, one, both)
    off = f"{one.directory}: has one caption an image, so caption_mix is off"
    assert check_mix(wrong, one) == [off]
    counted = open_encoded(write_set(tmp_path / "counted", records, levels=levels, counts=counts))
    without = "2 have none of the level short and 2 have none of the level long"
    fallback = "there the first that they have is taken; to give them one, complete the captions and encode again"
    assert check_mix(MIX, counted, one) == [f"{counted.directory}: of 10 images {without}; {fallback}", off]
    # A level that one set alone has is missing in the other.
    third = open_encoded(write_set(tmp_path / "third", records, levels=("long", "tags")))
    (said,) = check_mix(MIX, both, third)
    assert said == f"{third.directory}: of 10 images 10 have none of the level short; {fallback}"
    assert level_numbers(MIX, third) == [0, 0, 0]


class Told:
    """A set of three records whose manifest holds `facts`."""

    def __init__(self, **facts):
        self.facts, self.levels = facts, tuple(facts.get("levels", ("long",)))

    def __len__(self):
        return 3

    def keys(self):
        return ["cat/1", "dog/2", "cat/3"]

    def captions(self, index):
        return {level: f"{level} {index // 2}" for level in self.levels}


told: Any = Told


def test_captions_seen_are_those_that_are_drawn():
    text, short = {"usual_tokens": [20, 33], "captions": 3}, {"usual_tokens": [3, 6], "captions": 3}
    levels = {"long": text, "short": short, "medium": {"usual_tokens": [9, 12], "captions": 3}}
    plain = told(text=text, levels=levels, vocabulary=["red", "a"])
    mixed = told(text={"usual_tokens": [30, 60]}, vocabulary=["a", "left"])
    of_set = {"examples": ["long 0", "long 1"], "images": 3, "classes": 2}
    assert captions_seen(None, 80, 0, plain) == {"tokens": [20, 33], "vocabulary": ["a", "red"], **of_set}
    held_out = {"examples": ["long 1"], "images": 2, "classes": 2}
    found = captions_seen(None, 80, 1, plain, mixed)
    assert found == {"tokens": [20, 60], "vocabulary": ["a", "left", "red"], **held_out}

    def tokens_and_examples(mix, *stores):
        found = captions_seen(mix, 80, 1, *stores)
        assert found is not None
        return found["tokens"], found["examples"]

    mix = CaptionMix(levels=("long", "short", "medium"), weights=(0.5, 0.5, 0.0))
    assert tokens_and_examples(mix, plain, mixed) == ([3, 60], ["long 1", "short 1"])
    alone = CaptionMix(levels=("short",), weights=(1.0,))
    assert tokens_and_examples(alone, plain) == ([3, 6], ["short 1"])
    assert tokens_and_examples(replace(alone, start=40), plain) == ([3, 33], ["long 1", "short 1"])
    assert tokens_and_examples(replace(alone, start=80), plain) == ([20, 33], ["long 1"])  # begins at the end
    assert tokens_and_examples(alone, mixed) == ([30, 60], ["long 1"])  # one caption an image: no mix
    some = told(text=text, levels=levels | {"short": short | {"captions": 2}})
    assert tokens_and_examples(alone, some) == ([3, 33], ["short 1"])  # one image has no short caption
    assert captions_seen(None, 80, 0, plain, told(text={"mean_tokens": 3.0})) is None
    assert captions_seen(None, 80, 0, told()) is None


def test_a_second_phase_that_never_begins_is_named():
    config = config_of(num_images=80, caption_mix={"long": 1.0}, caption_mix_start_image=80, augment_start_image=96)
    said = check_starts(config)
    assert said == [
        "caption_mix_start_image is 80, and the training ends at 80 images, so caption_mix is never drawn; give a"
        " smaller one",
        "augment_start_image is 96, and the training ends at 80 images, so no CutMix image is shown; give a smaller"
        " one",
    ]
    assert check_starts(replace(config, caption_mix_start_image=72, augment_prob=0.0)) == []


def test_a_budget_without_a_step_at_the_peak_rate_is_named():
    config = config_of(num_images=80, optim=OptimConfig(warmup_images=40, decay="constant", cooldown_images=48))
    said = "optim: warmup_images 40 and cooldown_images 48 are more than num_images 80, so no step has the peak rate"
    assert check_starts(config) == [f"{said}; give less"]
    assert check_starts(replace(config, optim=replace(config.optim, cooldown_images=40))) == []
    said = "optim: warmup_images 81 is more than num_images 80, so no step has the peak rate; give less"
    assert check_starts(replace(config, optim=OptimConfig(warmup_images=81))) == [said]


def test_a_margin_that_leaves_nothing_to_learn_is_refused():
    boxes = np.array([[0, 0, 16, 32], [8, 8, 16, 16]], np.int32)
    seams = Seams(["a", "b"], ["half", "quarter"], boxes, np.array([0.3, 0.0]))
    check_margin(3, seams, 32, 8)
    for margin in (4, 100):
        with pytest.raises(
            UserError, match=rf"seam_margin: {margin} leaves .* none of their 8 x 8 lat.*; give at most 3"
        ):
            check_margin(margin, seams, 32, 8)
    with pytest.raises(UserError, match=r"seam_margin: 1 leaves .*; set None"):
        check_margin(1, seams, 32, 2)
    check_margin(100, replace(seams, min_t=np.zeros(2)), 32, 8)  # never masked


def test_an_export_knows_what_the_captions_were_like(tmp_path):
    world = WorldConfig(num_images=10, size=16, shapes=("circle", "square"), colors=("red", "blue"))
    collect(tmp_path / "images", CollectConfig(size=16, world=world))
    caption(tmp_path / "captions", tmp_path / "images", CaptionConfig(captioner="scene"))
    settings = EncodeConfig(latents="pixel-unshuffle:4", text=f"words:{WIDTH}")
    encode(tmp_path / "plain", tmp_path / "images", tmp_path / "captions", settings)
    model = replace(DIT, latent_channels=48, latent_size=4)
    mix = {"caption_mix": {"long": 0.5, "short": 0.5}}
    for name, more in (("long", {}), ("both", mix)):
        config = config_of(model=model, augment_prob=0.0, num_images=8, **more)
        train(tmp_path / "runs" / name, tmp_path / "plain", None, config)
        export(tmp_path / "exports" / name, tmp_path / "runs" / name)
    long, both = (load_export(tmp_path / "exports" / name)[1].captions for name in ("long", "both"))
    assert long is not None
    assert both is not None
    levels = read_levels(tmp_path / "captions")
    counts = {name: Words(WIDTH).count_tokens(list(texts.values())) for name, texts in levels.items()}
    assert long.tokens == (min(counts["long"]), max(counts["long"]))
    assert both.tokens == (min(counts["short"]), max(counts["long"]))
    assert "circle" in both.vocabulary


def test_sentences_are_taken_out_of_texts_that_are_not_encoded_yet(tmp_path):
    encoded = open_encoded(write_set(tmp_path / "a", make_records(3)))
    bare = open_encoded(write_set(tmp_path / "b", make_records(3, text="none"), text="none"))
    check_sentences(0.0, encoded)
    check_sentences(0.5, bare)
    with pytest.raises(
        UserError, match="a: holds encoded texts, out of which no sentence can be taken; encode it with"
    ):
        check_sentences(0.5, bare, encoded)
