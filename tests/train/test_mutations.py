"""Mistakes that others made, put in on purpose: each must turn a test red."""

from dataclasses import replace

import pytest
import torch

from tessera.train import checkpoint
from tessera.train import loader as batches
from tessera.train.algorithm1 import Algorithm1
from tessera.train.distributed import GradientExchange
from tessera.train.optim.master import EMA
from tiny.training_sets import make_records, write_set
from train import test_algorithm1, test_checkpoint, test_distributed, test_loader
from train.optim import test_lamb, test_master


def red(test, *arguments):
    """The test fails; and it passes without the mistake, as its own module shows."""
    with pytest.raises(AssertionError):
        test(*arguments)


def test_without_the_gate_at_tau(monkeypatch):
    monkeypatch.setattr(Algorithm1, "_augmented", lambda self, block, t, rho: rho < self.prob)
    red(test_algorithm1.test_share_of_augmented_samples_is_what_equation_3_says, 0.4, 0.5)


def test_with_the_gate_turned_round(monkeypatch):
    monkeypatch.setattr(Algorithm1, "_augmented", lambda self, block, t, rho: (t <= self.min_t) & (rho < self.prob))
    red(test_algorithm1.test_share_of_augmented_samples_is_what_equation_3_says, 0.4, 0.5)


def test_with_the_sets_swapped(monkeypatch, tmp_path):
    plain, augmented = (write_set(tmp_path / str(seed), make_records(30, seed=seed)) for seed in (0, 1))
    original = batches.Reader.__init__

    def swapped(self, algorithm, first, second, *args, **options):
        original(self, algorithm, second, first, *args, **options)

    monkeypatch.setattr(batches.Reader, "__init__", swapped)
    red(test_loader.test_batch_holds_the_drawn_records, plain, augmented)


def test_with_records_drawn_with_repetition(monkeypatch):
    def order(self, source, epoch, size):
        return torch.randint(size, (size,), generator=torch.Generator().manual_seed(epoch)).numpy()

    monkeypatch.setattr(Algorithm1, "_draw_order", order)
    red(test_algorithm1.test_each_epoch_of_each_set_has_every_record_once.hypothesis.inner_test, 50, 20, 0.5, 3, 0)


def test_with_the_average_the_wrong_way_round(monkeypatch):
    monkeypatch.setattr(EMA, "share", lambda self, step, skip=None: self.decay)
    red(test_master.test_ema_against_its_closed_form)


def test_with_a_clipped_trust_ratio(monkeypatch):
    original = torch.where

    def clipped(condition, a, b):
        return original(condition, a, b).clamp(max=10.0)

    monkeypatch.setattr(torch, "where", clipped)
    red(test_lamb.test_lamb_against_a_reference, monkeypatch, 512, 512)


def test_with_scales_of_the_wrong_group(monkeypatch):
    original = batches.PackedText.unpack
    wrong = lambda text, dtype: original(replace(text, scale=text.scale.flip(1)), dtype)  # noqa: E731
    monkeypatch.setattr(batches.PackedText, "unpack", wrong)
    red(test_loader.test_packed_text_is_unpacked_as_padded_by_hand, 128)


def test_with_a_bucket_that_is_never_sent(monkeypatch):
    import torch.distributed as dist

    original = GradientExchange.finish

    def forgetful(self):
        if len(self.parts) > 1:
            self.parts.pop()
        original(self)

    monkeypatch.setattr(GradientExchange, "finish", forgetful)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        red(test_distributed.test_buckets_hold_the_gradients_of_all_passes, None, monkeypatch, torch.float32, 100)
    finally:
        dist.destroy_process_group()


def test_with_headers_left_in_random_order(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "_sort_header", lambda path: None)
    red(test_checkpoint.test_equal_states_are_equal_bytes, tmp_path)


def test_with_checkpoints_that_are_not_compared_with_their_checksums(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "sha256_file", lambda path: "0" * 64)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_checkpoint.test_one_wrong_bit_is_named_with_its_checksum(tmp_path)
