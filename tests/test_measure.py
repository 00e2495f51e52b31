"""measure: real steps and networks of this machine, and the comparison with the CPU."""

import re
from dataclasses import replace

import pytest
import torch

from tessera import measure as machine
from tessera.measure import STEPS, WARM, Weights, compare_with_cpu, measure, synthetic_set
from tessera.models.dit import DiTConfig
from tessera.plan import PlanConfig, describe, gpu_hours, stage_flops, to_json
from tessera.presets.small_sets import dit_i_s
from tessera.train.step import Stepper
from tiny.models import save_llava_next, save_t5, save_vae

MODEL = DiTConfig(latent_size=8, width=32, depth=1, heads=2, text_width=64, refiner_depth=1)
CONFIG = replace(dit_i_s(), model=MODEL, caption_mix={"long": 0.5, "short": 0.5}, compute="fp32")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(machine, "pick_device", lambda: torch.device("cpu"))


def test_measures_real_steps_and_says_what_is_missing(monkeypatch):
    stepped = []
    step = Stepper.step

    def counted(self, loaded, stop=False):
        stepped.append(sum(len(host.numbers) for host in loaded))
        return step(self, loaded, stop)

    monkeypatch.setattr(Stepper, "step", counted)
    found = measure(CONFIG, 4, 12, Weights("nobody/captioner", "nobody/vae", "nobody/text"))
    assert stepped == [2] * (WARM + STEPS)
    assert found.agrees
    assert list(found.images_per_second) == ["train"]
    assert found.how["train"] == "20 steps of 2 images, 2 a pass, in fp32"
    assert found.memory > 10**8
    assert found.how["encode"] == "nobody/vae is not on this machine: hf download nobody/vae"
    assert found.how["caption"] == "nobody/captioner is not on this machine: hf download nobody/captioner"


def test_measures_curation_where_its_weights_are(tmp_path):
    weights = Weights(
        str(save_llava_next(tmp_path / "llava")), str(save_vae(tmp_path / "vae")), str(save_t5(tmp_path / "t5"))
    )
    found = measure(CONFIG, 4, 12, weights)
    assert set(found.images_per_second) == {"train", "encode", "caption"}
    assert all(rate > 0 for rate in found.images_per_second.values())
    assert found.how["encode"] == "2 images of 256 px with texts of 12 tokens"
    assert found.how["caption"] == "2 images, at most 4 tokens a caption"


def test_synthetic_texts_have_the_length_that_was_asked_for():
    with synthetic_set(CONFIG, 40) as store:
        lengths = [store.length(index) for index in range(len(store))]
        assert store.latent_shape == (4, 8, 8)
        assert sum(lengths) / len(lengths) == pytest.approx(40, abs=0.5)
        assert (min(lengths), max(lengths)) == (20, 60)


def test_the_cpu_agrees_with_itself_and_a_faulty_device_does_not(monkeypatch):
    cpu = torch.device("cpu")
    agrees, said = compare_with_cpu(cpu)
    assert agrees
    assert "agree with the CPU's in float64" in said

    exact = machine._loss_and_gradients
    for fault in (1.2, float("nan")):

        def faulty(config, device, dtype, fault=fault):
            loss, gradients = exact(config, device, dtype)
            return loss, gradients if dtype == torch.float64 else gradients * fault

        monkeypatch.setattr(machine, "_loss_and_gradients", faulty)
        agrees, said = compare_with_cpu(cpu)
        assert not agrees
        assert "DIFFER FROM" in said


def test_hours_and_money_follow_from_what_was_measured():
    plan = PlanConfig(images=20_000, sets=1, network="dit-s", gpus=1, price=2.0, gpu_tflops=100)
    found = machine.Measured(
        device="NVIDIA Test", peak_tflops=None, agrees=True, check="all is well", images_per_second={"train": 500.0},
        how={"train": "20 steps", "encode": "no VAE", "caption": "no captioner"}, memory=3 * 10**9,
    )  # fmt: skip
    without, hours = gpu_hours(plan), gpu_hours(plan, found)
    assert hours["train"] == pytest.approx(5_120_000 / 500 / 3600)
    assert (hours["encode"], hours["caption"]) == (without["encode"], without["caption"])
    told = describe(plan, found).splitlines()
    assert f"  train                {hours['train']:9.1f}  measured" in told
    assert f"  encode               {hours['encode']:9.1f}  assumed" in told
    assert f"  in all               {hours['in all']:9.1f}  in part measured" in told
    share = 500 * stage_flops(plan)["train"] / 100e12
    assert f"  train    500 images/s, {share:.0%} of the peak; 20 steps; at most 3 GB of memory" in told
    assert "  encode   not measured: no VAE" in told
    assert "  check    all is well" in told
    assumed = f"captions {plan.caption_utilization:.0%}, encoding {plan.encode_utilization:.0%}"
    assert f"  100 TFLOP/s peak of a GPU; {assumed}" in told
    assert to_json(plan, found)["money"] == pytest.approx(2 * hours["in all"])
    every = replace(found, images_per_second={"train": 500.0, "encode": 50.0, "caption": 5.0})
    assert gpu_hours(plan, every)["caption"] == pytest.approx(20_000 / 5 / 3600)
    assert gpu_hours(plan, every)["encode"] == pytest.approx(20_000 / 50 / 3600)
    assert "in part" not in describe(plan, every)


def test_every_row_says_that_it_is_assumed_without_a_measurement():
    plan = PlanConfig(images=20_000, network="dit-s", gpus=1, gpu_memory=12, price=1)
    tables = describe(plan).split("\nAssumed")[0].splitlines()
    rows = [line for line in tables if re.match(r"  \S.*?\s\s+\d", line)]  # of a name and a number
    assert len(rows) == 7 + 4 + 1 + 2  # disk, hours, money, memory
    assert all("  assumed" in row for row in rows), rows
