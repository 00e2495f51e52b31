"""The loss against known minima, hand-written references and a toy network with latent tokens."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor, nn

from tessera.config import UserError
from tessera.diffusion import schedule as sch
from tessera.diffusion.loss import X0_WEIGHT_LIMIT, Denoiser, diffusion_loss, drop_captions, null_text
from tessera.records import Batch, DenoiserState, TextEncoding

NULL = torch.full((1, 6), 0.5)


def make_batch(rows=8, channels=2, size=4, seed=0, dropped=None, low=0.0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    t = low + (1 - low) * torch.rand(rows, generator=g)
    lengths = torch.randint(1, 6, (rows,), generator=g)
    mask = torch.arange(5) < lengths[:, None]
    return Batch(
        latents=torch.randn(rows, channels, size, size, generator=g),
        text=TextEncoding(torch.randn(rows, 5, 6, generator=g) * mask[..., None], mask),
        t=t,
        alpha_bar=sch.linear(t),
        noise=torch.randn(rows, channels, size, size, generator=g),
        dropped=torch.zeros(rows, dtype=torch.bool) if dropped is None else dropped,
        numbers=torch.arange(rows),
    )


def part(batch: Batch, rows) -> Batch:
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.name != "text"}
    there = {name: value[rows] for name, value in fields.items() if value is not None}
    return Batch(text=batch.text.select(rows), **there)


@dataclasses.dataclass
class ToyCache:
    pooled: Tensor

    def select(self, rows):
        return ToyCache(self.pooled[rows])


class Toy(nn.Module):
    """A network with RIN's interface: refined text, latent tokens that go in and come out."""

    def __init__(self, channels=2):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.text = nn.Linear(6, channels)
            self.mix = nn.Conv2d(channels, channels, 3, padding=1)
            self.tokens = nn.Linear(channels, channels)
        self.encodings = 0
        self.calls: list[tuple[int, bool, bool]] = []  # rows, gradient, latent tokens given

    def encode_text(self, text):
        self.encodings += 1
        mask = text.mask[..., None]
        return ToyCache(self.text((text.embeddings * mask).sum(1) / mask.sum(1)))

    def forward(self, x, alpha_bar, text, state=None):
        state = state or DenoiserState()
        self.calls.append((len(x), torch.is_grad_enabled(), state.latent_tokens is not None))
        cache = self.encode_text(text) if state.text_cache is None else state.text_cache
        context = cache.pooled + alpha_bar[:, None]
        if state.latent_tokens is not None:
            context = context + state.latent_tokens[:, 0]
        out = self.mix(x) * context[..., None, None].tanh() + context[..., None, None]
        return out, DenoiserState(self.tokens(out.mean((2, 3)))[:, None], cache)


def returning(output):
    return lambda x, alpha_bar, text, state=None: (output, DenoiserState())


@pytest.mark.parametrize("prediction", sch.PREDICTIONS)
def test_zero_output_costs_the_target_s_power_and_the_target_nothing(prediction):
    batch = make_batch(low=1 / X0_WEIGHT_LIMIT)
    target = sch.target(prediction, batch.latents, batch.noise, batch.alpha_bar)
    loss, per_sample = diffusion_loss(returning(torch.zeros_like(target)), batch, NULL, prediction=prediction)
    weight = 1 / (1 - batch.alpha_bar) if prediction == "x0" else 1
    torch.testing.assert_close(per_sample, weight * target.square().mean((1, 2, 3)))
    torch.testing.assert_close(loss, per_sample.mean())
    assert diffusion_loss(returning(target), batch, NULL, prediction=prediction)[0] == 0


def gaussian_batch(alpha_bar: float, deviation: float) -> Batch:
    g = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, 64, 4, 32, 32, generator=g)
    rows = torch.full((64,), alpha_bar)
    text = TextEncoding(torch.zeros(64, 1, 6), torch.ones(64, 1, dtype=torch.bool))
    return Batch(1 + deviation * x0, text, 1 - rows, rows, noise, torch.zeros(64, dtype=torch.bool), torch.arange(64))


@pytest.mark.parametrize("prediction", sch.PREDICTIONS)
@pytest.mark.parametrize("alpha_bar", [0.1, 0.5, 0.9])
def test_the_ideal_denoiser_of_gaussian_data_has_the_known_minimum(prediction, alpha_bar):
    """Data N(1, s^2): the posterior variance of eps is alpha^2 s^2 / total, of v s^2 / total, of the
    velocity (alpha + sigma)^2 s^2 / total (total = x_t's)."""
    s = 0.7
    batch = gaussian_batch(alpha_bar, s)
    total = alpha_bar * s**2 + 1 - alpha_bar

    def ideal(x, alpha_bar_rows, text, state=None, scale=1.0):
        eps = scale * (1 - alpha_bar) ** 0.5 * (x - alpha_bar**0.5) / total
        x0 = sch.to_x0("eps", eps, x, alpha_bar)
        return sch.target(prediction, x0, eps, alpha_bar), DenoiserState()

    of_velocity = (alpha_bar**0.5 + (1 - alpha_bar) ** 0.5) ** 2
    known = {"eps": alpha_bar, "velocity": of_velocity}.get(prediction, 1) * s**2 / total
    if prediction == "x0":  # v's, as long as the weight 1 / (1 - alpha_bar) is below its limit
        known *= min(1, X0_WEIGHT_LIMIT * (1 - alpha_bar))
    loss, _ = diffusion_loss(ideal, batch, NULL, prediction=prediction)
    assert loss.item() == pytest.approx(known, rel=0.01)
    for scale in (0.9, 1.1):
        worse, _ = diffusion_loss(lambda *a: ideal(*a, scale=scale), batch, NULL, prediction=prediction)  # noqa: B023
        assert worse > loss * 1.001


def test_the_weight_of_x0_makes_it_the_loss_on_v():
    batch = make_batch(low=1 / X0_WEIGHT_LIMIT)
    x = sch.add_noise(batch.latents, batch.noise, batch.alpha_bar)
    guess = torch.randn(x.shape, generator=torch.Generator().manual_seed(9))
    on_x0, _ = diffusion_loss(returning(guess), batch, NULL, prediction="x0")
    v = sch.target("v", guess, sch.to_eps("x0", guess, x, batch.alpha_bar), batch.alpha_bar)
    on_v, _ = diffusion_loss(returning(v), batch, NULL, prediction="v")
    torch.testing.assert_close(on_x0, on_v)


def test_the_weight_of_x0_is_limited():
    batch = dataclasses.replace(make_batch(2), alpha_bar=torch.tensor([1.0, 1 - 1e-6]))
    _, per_sample = diffusion_loss(returning(torch.zeros_like(batch.latents)), batch, NULL, prediction="x0")
    torch.testing.assert_close(per_sample, X0_WEIGHT_LIMIT * batch.latents.square().mean((1, 2, 3)))


def test_the_network_sees_the_noised_latents_and_alpha_bar():
    batch, seen = make_batch(), {}

    def network(x, alpha_bar, text, state=None):
        seen.update(x=x, alpha_bar=alpha_bar, state=state)
        return torch.zeros_like(x), DenoiserState()

    diffusion_loss(network, batch, NULL)
    alpha_bar = batch.alpha_bar[:, None, None, None]
    torch.testing.assert_close(seen["x"], alpha_bar.sqrt() * batch.latents + (1 - alpha_bar).sqrt() * batch.noise)
    torch.testing.assert_close(seen["alpha_bar"], batch.alpha_bar)
    assert seen["state"] is None


def test_a_dropped_caption_is_the_null_condition_alone():
    batch = make_batch(4, dropped=torch.tensor([False, True, False, True]))
    text = drop_captions(batch.text, batch.dropped, NULL)
    for row in (0, 2):
        assert torch.equal(text.embeddings[row], batch.text.embeddings[row])
        assert torch.equal(text.mask[row], batch.text.mask[row])
    for row in (1, 3):
        assert torch.equal(text.embeddings[row, 0], NULL[0])
        assert text.embeddings[row, 1:].abs().sum() == 0
        assert text.mask[row].tolist() == [True, False, False, False, False]
    expected = null_text(NULL, 1, 5)
    assert torch.equal(expected.embeddings[0], text.embeddings[1])

    network = Toy()
    dropped, _ = diffusion_loss(network, batch, NULL)
    replaced = dataclasses.replace(batch, text=text, dropped=torch.zeros(4, dtype=torch.bool))
    assert torch.equal(dropped, diffusion_loss(network, replaced, NULL)[0])
    assert dropped != diffusion_loss(network, dataclasses.replace(batch, dropped=replaced.dropped), NULL)[0]


@pytest.mark.parametrize("keep", [[True, False, True, True], [False] * 4, [True] * 4])
def test_self_conditioning_is_two_forwards_with_one_gradient(keep):
    batch, network, plain = make_batch(4, dropped=torch.tensor([True, False, False, False])), Toy(), Toy()
    keep = torch.tensor(keep)
    loss, _ = diffusion_loss(network, batch, NULL, self_condition_keep=keep)
    loss.backward()

    # The same, written out: every sample twice, text refined each time, unkept tokens zeroed afterwards.
    x = sch.add_noise(batch.latents, batch.noise, batch.alpha_bar)
    text = drop_captions(batch.text, batch.dropped, NULL)
    with torch.no_grad():
        _, first = plain(x, batch.alpha_bar, text)
    assert first.latent_tokens is not None
    tokens = first.latent_tokens * keep[:, None, None]
    output, _ = plain(x, batch.alpha_bar, text, DenoiserState(tokens))
    expected = (output - batch.noise).square().mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        if theirs.grad is None:
            assert ours.grad is None
        else:
            torch.testing.assert_close(ours.grad, theirs.grad)

    assert network.encodings == 1
    # As many calls whatever is kept: ranks with parts of the weights make them together.
    assert network.calls == [(int(keep.sum()) or 1, False, False), (4, True, bool(keep.any()))]


def test_without_self_conditioning_there_is_one_forward():
    network = Toy()
    diffusion_loss(network, make_batch(4), NULL)
    assert network.calls == [(4, True, False)]


def test_self_conditioning_a_network_without_latent_tokens_is_an_error():
    class Stateless(Toy):
        def forward(self, x, alpha_bar, text, state=None):
            return x, DenoiserState()

    with pytest.raises(UserError, match="self_condition"):
        diffusion_loss(Stateless(), make_batch(2), NULL, self_condition_keep=torch.ones(2, dtype=torch.bool))


def test_weights_are_factors_of_the_samples_in_the_mean():
    batch, network, weights = (
        make_batch(4),
        returning(torch.zeros(4, *make_batch(4).latents.shape[1:])),
        torch.arange(4.0),
    )
    without, per_sample = diffusion_loss(network, batch, NULL)
    loss, same = diffusion_loss(network, batch, NULL, weights=weights)
    assert torch.equal(same, per_sample)
    assert loss.item() == pytest.approx(float((per_sample * weights).sum() / 4), rel=1e-6)
    assert loss != without


@pytest.mark.parametrize("prediction", sch.PREDICTIONS)
def test_micro_batches_sum_to_the_batch(prediction):
    batch = make_batch(8, dropped=torch.arange(8) % 3 == 0)
    keep = torch.arange(8) % 4 != 1
    whole, parts = Toy(), Toy()
    loss, per_sample = diffusion_loss(whole, batch, NULL, prediction=prediction, self_condition_keep=keep)
    loss.backward()
    total, pieces = 0.0, []
    for rows in (slice(0, 3), slice(3, 8)):
        piece = part(batch, rows)
        value, each = diffusion_loss(parts, piece, NULL, prediction=prediction, self_condition_keep=keep[rows])
        (value * len(piece.t) / 8).backward()
        total += value.item() * len(piece.t) / 8
        pieces.append(each)
    assert total == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(torch.cat(pieces), per_sample)
    for ours, theirs in zip(parts.text.parameters(), whole.text.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_nothing_is_changed_and_nothing_is_drawn():
    batch = make_batch(4, dropped=torch.tensor([True, False, True, False]))
    before, generator = copy.deepcopy(batch), torch.get_rng_state()
    keep = torch.tensor([True, True, False, False])
    losses = [diffusion_loss(Toy(), batch, NULL, self_condition_keep=keep) for _ in range(2)]
    assert torch.equal(losses[0][0], losses[1][0])
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(batch.text.embeddings, before.text.embeddings)
    assert torch.equal(batch.text.mask, before.text.mask)
    for name in ("latents", "t", "alpha_bar", "noise", "dropped", "numbers"):
        assert torch.equal(getattr(batch, name), getattr(before, name))
    assert torch.equal(keep, torch.tensor([True, True, False, False]))
    assert torch.equal(NULL, torch.full((1, 6), 0.5))
    assert losses[0][0].requires_grad
    assert not losses[0][1].requires_grad


def test_a_low_precision_network_is_compared_in_float32():
    batch = make_batch(4)
    network = returning(batch.noise.bfloat16())
    loss, per_sample = diffusion_loss(network, batch, NULL)
    assert loss.dtype == per_sample.dtype == torch.float32
    assert 0 < loss < 1e-4


@pytest.mark.parametrize("prediction", sch.PREDICTIONS)
def test_a_denoiser_gives_eps(prediction):
    batch = make_batch(6, low=0.1)
    x = sch.add_noise(batch.latents, batch.noise, batch.alpha_bar)
    output = sch.target(prediction, batch.latents, batch.noise, batch.alpha_bar)
    eps, state = Denoiser(returning(output), prediction)(x, batch.alpha_bar, batch.text)
    torch.testing.assert_close(eps, batch.noise, rtol=1e-4, atol=1e-4)
    assert isinstance(state, DenoiserState)
    half, _ = Denoiser(returning(output.bfloat16()), prediction)(x, batch.alpha_bar, batch.text)
    assert half.dtype == torch.float32


def test_unknown_prediction_is_a_user_error():
    with pytest.raises(UserError, match="prediction"):
        Denoiser(returning(None), "noise")
    with pytest.raises(UserError, match="prediction"):
        diffusion_loss(returning(None), make_batch(), NULL, prediction="x_0")


@pytest.mark.parametrize("prediction", ["eps", "x0"])
def test_a_masked_loss_is_the_mean_over_the_latents_that_count(prediction):
    batch = make_batch(rows=3)
    counts = torch.ones(3, 1, 4, 4)
    counts[1, :, :, 1:3] = 0
    counts[2] = 0

    def network(x, alpha_bar, text, state):
        return torch.where(counts > 0, x, 1e3), None

    loss, each = diffusion_loss(network, dataclasses.replace(batch, loss_mask=counts), NULL, prediction=prediction)
    _, whole = diffusion_loss(lambda x, *rest: (x, None), batch, NULL, prediction=prediction)
    x = sch.add_noise(batch.latents, batch.noise, batch.alpha_bar)[1]
    wanted = sch.target(prediction, batch.latents[1], batch.noise[1], float(batch.alpha_bar[1]))
    weight = 1 if prediction == "eps" else min(X0_WEIGHT_LIMIT, 1 / (1 - float(batch.alpha_bar[1])))
    assert each[0] == pytest.approx(float(whole[0]))
    assert each[1] == pytest.approx(weight * float((x - wanted).square()[:, :, [0, 3]].mean()), rel=1e-5)
    assert each[2] == 0
    assert loss == pytest.approx(float(each.mean()))
