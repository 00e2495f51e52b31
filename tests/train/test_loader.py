"""From sample numbers to batches: the drawn records, whatever the batch, the ranks and the threads."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from encoded.test_seams import seams_of
from tessera.config import UserError
from tessera.diffusion.schedule import linear
from tessera.encoded.record import quantize
from tessera.encoded.store import open_encoded
from tessera.models.layers import key_count
from tessera.randomness import philox
from tessera.train import loader as batches
from tessera.train.algorithm1 import Algorithm1, CaptionMix, Normalization
from tessera.train.loader import PackedText, Reader, drop_sentences, passes, read_ahead
from tiny.training_sets import SHAPE, WIDTH, load_batch, make_records, with_short, write_set


def ragged(lengths, width):
    rng = philox(0, "test/batches", width)
    return [rng.standard_normal((length, width)).astype(np.float32) for length in lengths]


def by_hand(texts, length):
    padded = np.zeros((len(texts), length, texts[0].shape[1]), np.float32)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = text
    return torch.from_numpy(padded)


@pytest.mark.parametrize("width", [128, 100, 16, 64])
def test_packed_text_is_unpacked_as_padded_by_hand(width):
    texts = ragged([3, 7, 1], width)
    codes, scales = zip(*(quantize(text) for text in texts))
    packed = PackedText.pack(codes, scales)
    assert packed.codes.dtype == torch.int8
    assert packed.codes.numel() == 11 * width  # nothing is padded before the device has it
    stored = [c * np.repeat(s.astype(np.float32), 64, axis=1)[:, :width] for c, s in zip(codes, scales)]
    for dtype in (torch.float32, torch.bfloat16):
        text = packed.unpack(dtype)
        assert torch.equal(text.embeddings, by_hand(stored, 7).to(dtype))
    assert text.mask.sum(1).tolist() == [3, 7, 1]
    assert torch.equal(text.mask, torch.arange(7) < torch.tensor([[3], [7], [1]]))


def test_text_of_fp16_stays_so_until_the_device():
    texts = [text.astype(np.float16) for text in ragged([2, 4], 16)]
    packed = PackedText.pack(texts, None)
    assert packed.codes.dtype == torch.float16
    assert torch.equal(packed.unpack(torch.float32).embeddings, by_hand(texts, 4))


def reader_of(*stores, prob=0.5, **options):
    return Reader(Algorithm1(*stores, 0.4, prob, 5, "linear"), *stores, Normalization(), **options)


def test_one_set_may_be_int8_and_the_other_fp16(plain, tmp_path):
    stores = open_encoded(plain), open_encoded(write_set(tmp_path / "fp16", make_records(9, text="fp16"), text="fp16"))
    reader = reader_of(*stores, prob=1.0)
    host = reader(range(24))
    draws = reader.algorithm.draws(range(24))
    assert 0 < draws.augmented.sum() < 24
    for row, (augmented, index) in enumerate(zip(draws.augmented, draws.index)):
        text = torch.from_numpy(stores[int(augmented)][int(index)].text)
        assert torch.equal(host.to("cpu", torch.float32).text.embeddings[row, : len(text)], text)


def test_captions_are_encoded_on_the_way_where_a_set_holds_no_text(tmp_path):
    store = open_encoded(write_set(tmp_path / "bare", make_records(9, text="none"), text="none"))

    def encode(captions):
        return [np.full((len(caption), WIDTH), float(caption[-1]), np.float32) for caption in captions]

    batch = reader_of(store, None, prob=0.0, encode_text=encode)(range(9)).to("cpu", torch.float32)
    index = Algorithm1(9, None, 0.4, 0.0, 5, "linear").draws(range(9)).index
    assert batch.text.embeddings[:, 0, 0].tolist() == [float(i) for i in index]
    assert batch.text.mask.sum(1).tolist() == [len("a thing, number 0")] * 9
    with pytest.raises(UserError, match="holds no text"):
        reader_of(store, None, prob=0.0)(range(2))


def test_real_tokens_are_counted(plain, augmented):
    stores = open_encoded(plain), open_encoded(augmented)
    host = reader_of(*stores)(range(16))
    assert host.tokens == int(host.to("cpu", torch.float32).text.mask.sum())


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_ranks_share_every_batch_whatever_their_number(monkeypatch, world):
    taken = []
    for rank in range(world):
        monkeypatch.setattr(batches, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(batches, "world_size", lambda: world)
        mine = list(passes(48, 24, 96, 24 // world // (3 if world == 8 else 1)))
        assert len(mine) == (6 if world == 8 else 2)
        half = len(mine) // 2
        assert {n for part in mine[:half] for n in part.tolist()} <= set(range(48, 72))
        taken += [n for part in mine for n in part.tolist()]
    assert sorted(taken) == list(range(48, 96))


@pytest.mark.parametrize("kind", ["int8", "none", "levels"])
def test_lengths_are_those_of_the_texts_that_are_read(kind, tmp_path):
    mix, records = None, make_records(23, text=kind if kind == "none" else "int8")
    if kind == "levels":
        mix, records = CaptionMix(levels=("long", "short"), weights=(0.5, 0.5)), with_short(records)
    options = {"levels": ("long", "short")} if mix else {"text": kind}
    store = open_encoded(write_set(tmp_path / "set", records, **options))
    algorithm = Algorithm1(len(store), None, 0.4, 0.0, 5, "linear", caption_mix=mix)
    levels = ((0, 1, 0),) * 2 if mix else ((0,),) * 2
    encode = lambda captions: [np.ones((len(caption), WIDTH), np.float32) for caption in captions]  # noqa: E731
    reader = Reader(algorithm, store, None, Normalization(), encode_text=encode, levels=levels)
    lengths = reader.lengths(np.arange(64))
    assert lengths.tolist() == reader(range(64)).text.mask.sum(1).tolist()
    assert len(set(lengths.tolist())) > 1


def test_samples_of_a_step_are_sorted_by_text_into_passes():
    lengths = philox(0, "lengths").integers(1, 9, 48)
    plain_order = list(passes(0, 24, 48, 8))
    sorted_order = list(passes(0, 24, 48, 8, lambda numbers: lengths[numbers]))
    for first in (0, 3):  # each batch has its own samples still
        ours, theirs = (np.concatenate(order[first : first + 3]) for order in (sorted_order, plain_order))
        assert sorted(ours) == theirs.tolist()
        assert (np.diff(lengths[ours]) <= 0).all()
        same = lengths[ours][1:] == lengths[ours][:-1]
        assert (np.diff(ours)[same] > 0).all()  # in the stream's order where texts are equally long
    whole = list(passes(0, 24, 48, 24, lambda numbers: lengths[numbers]))
    assert np.concatenate(whole).tolist() == list(range(48))  # a single pass needs no order


PROMPTS = (10, 22, 13, 8, 16, 16, 8, 23, 27, 28)
"""T5 tokens of ten prompts of PartiPrompts."""


def long_captions(draws, count):
    """Tokens of captions as LLaVA writes them, by the paper about 180 on average."""
    return np.clip(np.rint(draws.normal(180, 35, count)), 20, 300).astype(int)


DISTRIBUTIONS = {
    "prompts": lambda draws, count: draws.choice(PROMPTS, count),
    "long": long_captions,
    "mixed": lambda draws, count: np.where(
        draws.random(count) < 0.7, long_captions(draws, count), draws.choice(PROMPTS, count)
    ),
}


@pytest.mark.parametrize("front", [0, 16])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_sorting_takes_away_most_of_the_padding(name, front):
    """Steps of 1024 in passes of 128, text padded as a GPU gets it; before, each pass in the stream's order was padded
    to a multiple of 32."""
    steps, size = 16, 128
    lengths = DISTRIBUTIONS[name](philox(0, "padding"), 1024 * steps)

    def padding(order, padded):
        return sum(size * padded(max(lengths[part])) - lengths[part].sum() for part in order)

    before = padding(passes(0, 1024, len(lengths), size), lambda longest: -(-longest // 32) * 32)
    ordered = passes(0, 1024, len(lengths), size, lambda numbers: lengths[numbers])
    now = padding(ordered, lambda longest: key_count(front + longest) - front)
    assert now <= 0.6 * before, now / before


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_batches_in_order(plain, augmented, threads):
    stores = open_encoded(plain), open_encoded(augmented)
    reader = reader_of(*stores)
    shaken = philox(0, "shake")

    def read(numbers):
        time.sleep(float(shaken.random()) / 500)
        return reader(numbers)

    with read_ahead(read, passes(0, 8, 96, 4), threads=threads) as loader:
        for number in range(0, 96, 4):
            batch = next(loader).to("cpu", torch.float32)
            expected = load_batch(Algorithm1(*stores, 0.4, 0.5, 5, "linear"), *stores, range(number, number + 4))
            for name in ("latents", "noise", "t", "alpha_bar", "dropped", "numbers"):
                assert torch.equal(getattr(batch, name), getattr(expected, name)), name
            assert torch.equal(batch.text.embeddings, expected.text.embeddings)


def test_it_reads_ahead_and_no_further():
    asked, gate = [], threading.Event()

    def read(numbers):
        asked.append(int(numbers[0]))
        gate.wait(10)
        return numbers

    with read_ahead(read, iter(np.arange(20).reshape(20, 1)), threads=1, ahead=3) as loader:
        gate.set()
        for expected in range(15):
            assert next(loader)[0] == expected
            assert max(asked) <= expected + 3
    assert asked == sorted(asked)


def test_what_a_thread_raises_reaches_the_loop():
    def read(_numbers):
        raise UserError("shard-00003.arrow: is damaged")

    with read_ahead(read, iter([np.arange(2)])) as loader, pytest.raises(UserError, match="shard-00003"):
        next(loader)


@pytest.fixture(scope="module")
def spread_sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spread")
    plain = write_set(folder / "plain", make_records(37, std=0.25))
    augmented = write_set(folder / "augmented", make_records(23, seed=1, std=0.25))
    return open_encoded(plain), open_encoded(augmented)


def algorithm_of(plain, augmented, **changes):
    return Algorithm1(plain, augmented, 0.4, 0.5, 5, linear, caption_drop_prob=0.2, **changes)


def test_one_record_is_read_per_sample(plain, augmented):
    stores = open_encoded(plain), open_encoded(augmented)
    algorithm = algorithm_of(*stores)
    load_batch(algorithm, *stores, np.arange(10, 74))
    chosen = algorithm.draws(np.arange(10, 74)).augmented
    assert (stores[0].records_read, stores[1].records_read) == ((~chosen).sum(), chosen.sum())
    assert chosen.any()


def test_batch_holds_the_drawn_records(plain, augmented):
    stores = open_encoded(plain), open_encoded(augmented)
    algorithm = algorithm_of(*stores)
    batch = load_batch(algorithm, *stores, np.arange(40))
    assert batch.latents.shape == (40, *SHAPE)
    assert batch.text.embeddings.shape == (40, 5, WIDTH)
    for row in range(40):
        sample = algorithm[row]
        record = stores[sample.source == "augmented"][sample.index]
        assert record.text is not None
        length = len(record.text)
        assert np.array_equal(batch.latents[row].numpy(), record.latent_mean.astype(np.float32))
        assert np.array_equal(batch.text.embeddings[row, :length].numpy(), record.text)
        assert not batch.text.embeddings[row, length:].any()
        assert batch.text.mask[row].tolist() == [i < length for i in range(5)]
        assert float(batch.t[row]) == np.float32(sample.t)
        assert float(batch.alpha_bar[row]) == np.float32(sample.alpha_bar)
        assert bool(batch.dropped[row]) == sample.drop_caption
    assert batch.numbers.tolist() == list(range(40))
    assert batch.dropped.any()


def test_samples_are_the_same_whatever_the_batch_and_the_ranks(spread_sets):
    algorithm = algorithm_of(*spread_sets)
    numbers = np.arange(8000, 8024)
    whole = load_batch(algorithm, *spread_sets, numbers)
    for split in (numbers[0::2], numbers[1::2], numbers[5:6], numbers[::-1]):
        part = load_batch(algorithm_of(*spread_sets), *spread_sets, split)
        rows = torch.from_numpy(split - 8000)
        for field in ("latents", "noise", "t", "alpha_bar", "dropped", "numbers"):
            assert torch.equal(getattr(part, field), getattr(whole, field)[rows]), field
        length = part.text.mask.shape[1]
        assert torch.equal(part.text.embeddings, whole.text.embeddings[rows, :length])
        assert torch.equal(part.text.mask, whole.text.mask[rows, :length])


def test_posterior_is_sampled_anew_at_each_visit(spread_sets):
    algorithm = algorithm_of(*spread_sets)
    batch = load_batch(algorithm, *spread_sets, np.arange(600))
    means = []
    for number in range(600):
        sample = algorithm[number]
        means.append(spread_sets[sample.source == "augmented"][sample.index].latent_mean)
    draws = (batch.latents.numpy() - np.stack(means)) / 0.25
    assert abs(draws.mean()) < 4 / np.sqrt(draws.size)
    assert abs(draws.var() - 1) < 4 * np.sqrt(2 / draws.size)
    assert abs((draws * batch.noise.numpy()).mean()) < 4 / np.sqrt(draws.size)
    # Two visits of one record differ.
    assert len(np.unique(batch.latents.numpy().reshape(600, -1), axis=0)) == 600


def test_latents_are_normalised_after_the_draw(spread_sets):
    algorithm = algorithm_of(*spread_sets)
    stored = load_batch(algorithm, *spread_sets, np.arange(9))
    shift, scale = (1.0, -2.0, 0.5, 0.0), (0.5, 2.0, 0.25, 1.0)
    seen = load_batch(algorithm, *spread_sets, np.arange(9), Normalization(shift, scale))
    for channel in range(4):
        expected = (stored.latents[:, channel] - shift[channel]) * scale[channel]
        assert torch.equal(seen.latents[:, channel], expected)
    assert torch.equal(seen.noise, stored.noise)
    one = load_batch(algorithm, *spread_sets, np.arange(9), Normalization(scale=(0.5,)))
    assert torch.equal(one.latents, stored.latents * 0.5)


def test_noise_is_standard_normal(plain):
    store = open_encoded(plain)
    noise = load_batch(Algorithm1(store, None, 0.4, 0.0, 5, linear), store, None, np.arange(600)).noise
    assert abs(float(noise.mean())) < 4 / np.sqrt(noise.numel())
    assert abs(float(noise.var()) - 1) < 4 * np.sqrt(2 / noise.numel())


def test_text_of_fp16_and_in_bf16(tmp_path):
    store = open_encoded(write_set(tmp_path / "half", make_records(9, text="fp16"), text="fp16"))
    algorithm = Algorithm1(store, None, 0.4, 0.0, 5, linear)
    batch = load_batch(algorithm, store, None, [0, 1], dtype=torch.bfloat16)
    assert batch.text.embeddings.dtype == torch.bfloat16
    assert batch.latents.dtype == batch.noise.dtype == torch.float32
    expected = torch.from_numpy(store[algorithm[1].index].text).bfloat16()
    assert torch.equal(batch.text.embeddings[1, : len(expected)], expected)


def test_the_drawn_level_is_read_whatever_the_batch_the_ranks_and_the_other_set(tmp_path, augmented):
    """The plain set has its levels in another order than the mix, the augmented one has one caption an image."""
    records = with_short(make_records(37))
    plain = open_encoded(write_set(tmp_path / "set", records, levels=("long", "short")))
    mix = CaptionMix(levels=("short", "long"), weights=(0.7, 0.3))
    stores = plain, open_encoded(augmented)
    algorithm = algorithm_of(*stores, caption_mix=mix)
    reader = Reader(algorithm, *stores, Normalization(), levels=((0, 1, 0), (0, 0, 0)))
    numbers = np.arange(60)
    whole = reader(numbers).to("cpu", torch.float32)
    lengths = whole.text.mask.sum(1)
    for row in numbers.tolist():
        sample = algorithm[row]
        if sample.source == "augmented":
            text = stores[1][sample.index].text
        else:
            record, place = records[sample.index], sample.index % 5
            short = record.more[0]
            has_short = place == 3 or (place != 4 and sample.level == 1)
            text = plain[sample.index].text if not has_short else None
            if has_short:
                expected = short.text_codes * short.text_scale.astype(np.float32)
                assert np.array_equal(whole.text.embeddings[row, :1].numpy(), expected)
                assert lengths[row] == 1
        if text is not None:
            assert np.array_equal(whole.text.embeddings[row, : lengths[row]].numpy(), text)
    for split in (numbers[0::3], numbers[1::3], numbers[::-1].copy()):
        part = reader(split).to("cpu", torch.float32)
        length = part.text.mask.shape[1]
        assert torch.equal(part.text.embeddings, whole.text.embeddings[split, :length])


def test_masked_draws_have_no_loss_beside_their_border(tmp_path):
    plain, augmented = (write_set(tmp_path / str(seed), make_records(30, seed=seed)) for seed in (0, 1))
    stores = open_encoded(plain), open_encoded(augmented)
    seams = seams_of(stores[1])
    seams.boxes[1::2] = (0, 12, 16, 16)  # the lowest of 4 x 4 cells; of the others, the right half
    algorithm = Algorithm1(30, 30, 0.5, 1.0, 3, linear, below=True)
    numbers = np.arange(64)
    draws = algorithm.draws(numbers)
    batch = Reader(algorithm, *stores, Normalization(), seams=seams, seam_margin=1)(numbers).to("cpu", torch.float32)
    right = [[1, 0, 0, 1]] * 4
    lowest = [[1] * 4, [1] * 4, [0] * 4, [0] * 4]
    assert batch.loss_mask is not None
    for draw, mask in zip(draws, batch.loss_mask[:, 0].int().tolist()):
        assert mask == (([[1] * 4] * 4) if draw.t > 0.5 else lowest if draw.index % 2 else right)
    above = numbers[draws.t > 0.5]
    assert Reader(algorithm, *stores, Normalization(), seams=seams, seam_margin=1)(above).loss_mask is None


def test_condition_noise_has_its_variance_and_an_address(tmp_path):
    store = open_encoded(write_set(tmp_path / "set", make_records(30)))
    algorithm = Algorithm1(30, None, 0.0, 0.0, 3, linear)
    numbers = np.arange(900)
    texts = [
        Reader(algorithm, store, None, Normalization(), condition_noise=gamma)(numbers).text for gamma in (0.0, 4.0)
    ]
    noise = texts[1].floats() - texts[0].floats()
    assert noise.std() == pytest.approx(np.sqrt(4.0 / WIDTH), rel=4 / np.sqrt(2 * noise.numel()))
    assert abs(noise.mean()) < 4 * 0.5 / np.sqrt(noise.numel())
    few = Reader(algorithm, store, None, Normalization(), condition_noise=4.0)(numbers[[700, 5]]).text
    whole = texts[1].unpack(torch.float32)
    for row, number in enumerate((700, 5)):
        own = whole.embeddings[number][whole.mask[number]]
        assert torch.equal(few.unpack(torch.float32).embeddings[row][few.mask[row]], own)


def test_sentences_are_left_out_each_by_itself_but_never_all():
    caption = "One. Two! Three? Four."
    kept = [drop_sentences(caption, 0.6, philox(0, "test", n)) for n in range(4000)]
    shares = [np.mean([name in text for text in kept]) for name in ("One.", "Two!", "Three?", "Four.")]
    expected = 0.4 + 0.6**4 / 4  # and a quarter of the times that none was left
    assert np.abs(np.array(shares) - expected).max() < 4 * np.sqrt(0.25 / 4000)
    assert all(kept)
    assert "One. Three?" in kept
    assert drop_sentences(caption, 1.0, philox(0, "test", 1)) in ("One.", "Two!", "Three?", "Four.")
    assert drop_sentences(caption, 0.0, philox(0, "test", 1)) == caption
    assert drop_sentences("a red circle", 0.9, philox(0, "test", 1)) == "a red circle"


def test_texts_on_the_fly_are_of_the_sentences_that_stay(tmp_path):
    store = open_encoded(write_set(tmp_path / "set", make_records(30, text="none"), text="none"))
    algorithm, told = Algorithm1(30, None, 0.0, 0.0, 3, linear), []

    def encode(captions):
        told.extend(captions)
        return [np.ones((1, WIDTH), np.float32)] * len(captions)

    class Two:
        def __getattr__(self, name):
            return getattr(store, name)

        def read(self, index, level=0):
            return replace(store.read(index, level), caption=f"First {index}. Second {index}.")

    reader = Reader(algorithm, Two(), None, Normalization(), encode, sentence_drop_prob=0.5)  # type: ignore
    reader(np.arange(200))
    counts = [sum(part in text for text in told) for part in ("First", "Second")]
    assert min(counts) > 100
    assert max(counts) < 200
    again, told[:] = list(told), []
    reader(np.arange(190, 200))
    assert told == again[190:]
