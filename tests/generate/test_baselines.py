"""Other people's pipelines: a tiny random one of each kind that the paper compares with."""

import json
import shutil
from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tessera.config import UserError
from tessera.generate.baselines import Baseline, BaselineConfig, _spaced, check_steps, generate_baseline
from tessera.stages import read_manifest
from tiny.baselines import SAVE

pytestmark = [  # of the library, about itself
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::FutureWarning:diffusers"),
]

LINES = [{"tag": "single_object", "include": [], "prompt": f"a photo of a {name}"} for name in ("dog", "cat", "bus")]
for line in LINES:
    line["extended"] = {"text": f"{line['prompt']} in deep snow", "extender": "rules"}


SCHEDULERS = {
    "StableDiffusionPipeline": "EulerAncestralDiscreteScheduler",
    "StableDiffusionXLPipeline": "EulerDiscreteScheduler",
    "StableDiffusion3Pipeline": "FlowMatchEulerDiscreteScheduler",
    "PixArtAlphaPipeline": "DPMSolverMultistepScheduler",
    "FluxPipeline": "FlowMatchEulerDiscreteScheduler",
}


@pytest.fixture(scope="module")
def baselines(tmp_path_factory):
    return {name: save(tmp_path_factory.mktemp(name) / "baseline") for name, save in SAVE.items()}


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def pictures(folder):
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*/samples/*.png"))]


@pytest.mark.parametrize("name", SAVE)
def test_a_baseline_fills_the_same_folder(tmp_path, baselines, prompts, name):
    config = BaselineConfig(per_prompt=2, steps=2, size=16, seed=3, batch_size=4)
    out = tmp_path / "samples"
    assert generate_baseline(out, str(baselines[name]), prompts, config, device="cpu")
    manifest = read_manifest(out, "generate")
    assert manifest.counts == {"prompts": 3, "images": 6}
    facts = dict(manifest.facts)
    assert (facts.pop("scheduler"), facts.pop("network_calls")) == (SCHEDULERS[name], 2)
    assert facts == {"pipeline": name, "dtype": "float32"}
    assert manifest.config["model"].keys() == {"name", "sha256"}
    assert json.loads((out / "00001" / "metadata.jsonl").read_text()) == LINES[1] | {"text": LINES[1]["prompt"]}
    drawn = pictures(out)
    assert [picture.shape for picture in drawn] == [(16, 16, 3)] * 6
    assert len({picture.tobytes() for picture in drawn}) == 6
    # Whatever the batch, the noise is that of (seed, prompt, k): also the noise of each step.
    again = Baseline.load(baselines[name], "baseline", config, "cpu").images([LINES[1]["prompt"]], [(1, 1)])[0]
    assert np.abs(again.astype(int) - drawn[3].astype(int)).max() <= 1
    other = Baseline.load(baselines[name], "baseline", BaselineConfig(steps=2, size=16, seed=4), "cpu")
    other = other.images([LINES[1]["prompt"]], [(1, 1)])[0]
    assert np.abs(other.astype(int) - drawn[3].astype(int)).max() > 1
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert generate_baseline(out, str(baselines[name]), prompts, config, device="cpu")
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_a_half_filled_folder_is_filled_with_the_same_bytes(tmp_path, baselines, prompts, monkeypatch):
    model = str(baselines["StableDiffusionPipeline"])
    config = BaselineConfig(per_prompt=1, steps=2, size=16, batch_size=2)
    assert generate_baseline(tmp_path / "whole", model, prompts, config, device="cpu")
    images = Baseline.images

    def stops(self, texts, addresses):
        if (2, 0) in addresses:
            raise KeyboardInterrupt
        return images(self, texts, addresses)

    monkeypatch.setattr(Baseline, "images", stops)
    with pytest.raises(KeyboardInterrupt):
        generate_baseline(tmp_path / "half", model, prompts, config, device="cpu")
    assert len(pictures(tmp_path / "half")) == 2
    monkeypatch.setattr(Baseline, "images", images)
    assert generate_baseline(tmp_path / "half", model, prompts, config, device="cpu")
    names = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()]
    assert all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "half" / name).read_bytes() for name in names)
    with pytest.raises(UserError, match=r"was made otherwise: .*model"):
        generate_baseline(tmp_path / "half", str(baselines["PixArtAlphaPipeline"]), prompts, config, device="cpu")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("StableDiffusionPipeline", "1 of 3 prompts are cut to the 77 tokens of tokenizer\n"),
        (
            "StableDiffusion3Pipeline",
            "tokens of tokenizer_2; 1 of 3 prompts are cut to the 256 tokens of tokenizer_3\n",
        ),
        ("PixArtAlphaPipeline", "1 of 3 prompts are cut to the 120 tokens of tokenizer\n"),
    ],
)
def test_prompts_that_a_pipeline_cuts_are_counted(tmp_path, baselines, prompts, name, said, capsys):
    lines = [LINES[0], LINES[1] | {"prompt": "a dog " * 80}, LINES[2]]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = BaselineConfig(per_prompt=1, steps=2, size=16)
    generate_baseline(tmp_path / "out", str(baselines[name]), prompts, config, device="cpu")
    assert said in capsys.readouterr().err


def test_extended_texts(tmp_path, baselines, prompts):
    model = str(baselines["StableDiffusionPipeline"])
    config = BaselineConfig(per_prompt=1, steps=2, size=16, extended=True)
    generate_baseline(tmp_path / "long", model, prompts, config, device="cpu")
    metadata = json.loads((tmp_path / "long" / "00000" / "metadata.jsonl").read_text())
    assert (metadata["prompt"], metadata["text"]) == (LINES[0]["prompt"], LINES[0]["extended"]["text"])
    assert read_manifest(tmp_path / "long").config["extended"] is True


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusion3Pipeline", "FluxPipeline"])
def test_files_of_half_precision_are_drawn_on_a_cpu(tmp_path, baselines, prompts, name, dtype):
    """diffusers 0.42 alone loads a U-Net and a VAE in float32, and transformers 5 a text encoder in its file's type."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(baselines[name], torch_dtype=dtype)
    pipeline.save_pretrained(tmp_path / "half", variant="fp16" if dtype == torch.float16 else None)
    config = BaselineConfig(per_prompt=1, steps=2, size=16)
    assert generate_baseline(tmp_path / "out", str(tmp_path / "half"), prompts, config, device="cpu")
    assert read_manifest(tmp_path / "out").facts["dtype"] == "float32"


@pytest.mark.parametrize(
    ("part", "dtype"), [("text_encoder_2", torch.bfloat16), ("vae", torch.float16), ("unet", torch.float8_e4m3fn)]
)
def test_parts_of_another_precision_than_the_rest_are_drawn_on_a_cpu(tmp_path, baselines, prompts, part, dtype):
    folder = shutil.copytree(baselines["StableDiffusionXLPipeline"], tmp_path / "mixed")
    (path,) = (folder / part).glob("*.safetensors")
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    config = BaselineConfig(per_prompt=1, steps=2, size=16)
    assert generate_baseline(tmp_path / "out", str(folder), prompts, config, device="cpu")
    assert read_manifest(tmp_path / "out").facts["dtype"] == "float32"


def test_weights_that_cannot_be_read_are_named(tmp_path, baselines, prompts):
    folder = shutil.copytree(baselines["StableDiffusionXLPipeline"], tmp_path / "model")
    (path,) = (folder / "unet").glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot be loaded as a diffusers pipeline .*diffusion_pytorch_model"):
        generate_baseline(tmp_path / "out", str(folder), prompts, device="cpu")
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(UserError, match=r"pickled weights \(\.bin\) are not read, save the pipeline as safet"):
        generate_baseline(tmp_path / "out", str(folder), prompts, device="cpu")
    assert not (tmp_path / "out").exists()


SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@pytest.mark.parametrize(
    ("scheduler", "steps", "said"),
    [
        (("DDIMScheduler", SD), 1000, "begins at t = 1000, past its last timestep, 999; what works: 999 or --spacing"),
        (("DDIMScheduler", SD), 1, "begins at t = 1 of 999, not at the noisy end; what works: 2 or --spacing trailing"),
        (("DDIMScheduler", SD), 501, "begins at t = 501 of 999, .* what works: 500 or 899$"),
        (("DDIMScheduler", SD), 750, "begins at t = 750 of 999, .* what works: 500 or 899$"),
        (("DDIMScheduler", SD), 300, "begins at t = 898 of 999, .* what works: 250 or 301$"),
        (("DDIMScheduler", SD), 5000, "cannot be larger .* what works: 999$"),
        (("PNDMScheduler", SD | {"skip_prk_steps": True}), 600, "begins at t = 600 of 999"),
        (("PNDMScheduler", SD), 2, "takes no such number .* what works: 4"),
        (("EulerDiscreteScheduler", SD | {"timestep_spacing": "leading"}), 1, "begins at t = 1 of 999"),
        (("EulerDiscreteScheduler", {}), 1, "begins at t = 0 of 999, .* what works: 2 or --spacing trailing"),
        (
            ("DPMSolverMultistepScheduler", {}),
            1000,
            "repeats some of its 1000 noise levels; what works: 999 or --spacing",
        ),
        (
            ("DDIMScheduler", SD | {"timestep_spacing": "trailing"}),
            30,
            "moves by 33 timesteps, but .* 33.33 apart; .* 25 or 40",
        ),
        (("LCMScheduler", {}), 60, "takes no such number .* what works: 50$"),
        (("SCMScheduler", {}), 4, "takes no such number .*when num_inference_steps != 2.* what works: 2$"),
    ],
)
def test_steps_that_a_scheduler_cannot_do_name_numbers_that_work(scheduler, steps, said):
    name, options = scheduler
    with pytest.raises(UserError, match=f"steps is {steps}: {name} .*{said}") as error:
        check_steps(getattr(diffusers, name)(**options), steps)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("scheduler", "steps", "calls"),
    [
        *((("DDIMScheduler", SD), steps, steps) for steps in (2, 5, 20, 30, 50, 60, 100, 250, 500, 950, 999)),
        *((("PNDMScheduler", SD | {"skip_prk_steps": True}), steps, steps + 1) for steps in (20, 50)),
        *((("EulerDiscreteScheduler", {}), steps, steps) for steps in (2, 30, 999)),
        *((("DDIMScheduler", SD | {"timestep_spacing": "trailing"}), steps, steps) for steps in (1, 8, 50, 1000)),
        *((("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}), steps, steps) for steps in (1, 30, 1000)),
        (("HeunDiscreteScheduler", {}), 20, 39),
        (("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}), 50, 50),
        (("DEISMultistepScheduler", {"timestep_spacing": "leading"}), 20, 20),
        (("FlowMatchEulerDiscreteScheduler", {}), 1, 1),
        (("FlowMatchHeunDiscreteScheduler", {}), 10, 19),
        (("SCMScheduler", {}), 2, 2),
        (("DDPMWuerstchenScheduler", {}), 20, 20),
        (("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}), 28, 28),
    ],
)
def test_steps_that_a_scheduler_can_do_are_taken_and_calls_are_counted(scheduler, steps, calls, capsys):
    name, options = scheduler
    assert check_steps(getattr(diffusers, name)(**options), steps) == calls
    assert (f"calls the network {calls} times for {steps} steps" in capsys.readouterr().err) == (calls != steps)


@pytest.mark.parametrize("steps", [2, 25, 50, 500, 999])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDIM", {"clip_sample": False, "timestep_spacing": "leading"}),
        ("DDPM", {"clip_sample": False, "timestep_spacing": "leading"}),
        ("DPMSolverMultistep", {}),
        ("UniPCMultistep", {"timestep_spacing": "trailing"}),
    ],
)
def test_steps_that_are_taken_lead_to_the_image_of_exact_predictions(name, options, steps):
    """But for the noise of t = 0, of deviation 0.03, which some of them leave."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(**SD | options)
    check_steps(scheduler, steps)
    random = torch.Generator().manual_seed(0)
    image, x = torch.randn(2, 1, 4, 8, 8, generator=random)
    for t in scheduler.timesteps:
        kept = scheduler.alphas_cumprod[int(t)]
        noise = (x - kept.sqrt() * image) / (1 - kept).sqrt()
        x = scheduler.step(noise, t, x).prev_sample
    assert (x - image).abs().max() < 0.2


@pytest.mark.parametrize(
    ("name", "told"), [("DDIM", True), ("PNDM", True), ("DDPM", False), ("LCM", False), ("EulerDiscrete", False)]
)
def test_steps_that_miss_their_timesteps_are_told(name, told, capsys):
    check_steps(getattr(diffusers, f"{name}Scheduler")(**SD, timestep_spacing="linspace"), 20)
    assert ("moves by 50 timesteps, but its linspace ones lie 52.58 apart" in capsys.readouterr().err) == told


def test_trailing_timesteps_where_the_scheduler_knows_them(tmp_path, baselines, prompts):
    model = str(baselines["StableDiffusionXLPipeline"])
    config = BaselineConfig(per_prompt=1, steps=1, size=16)
    with pytest.raises(UserError, match=r"steps is 1: .* what works: 2 or --spacing trailing"):
        generate_baseline(tmp_path / "out", model, prompts, config, device="cpu")
    assert not (tmp_path / "out").exists()  # so that other steps may be drawn there
    config = replace(config, spacing="trailing")
    assert generate_baseline(tmp_path / "out", model, prompts, config, device="cpu")
    assert read_manifest(tmp_path / "out").config["spacing"] == "trailing"
    for name, known in (("LCMScheduler", False), ("FlowMatchEulerDiscreteScheduler", False), ("DDIMScheduler", True)):
        scheduler = getattr(diffusers, name)()
        assert (_spaced(scheduler, "trailing") is not None) == known
    with pytest.raises(UserError, match="spacing: the scheduler of a StableDiffusion3Pipeline has none to set"):
        generate_baseline(tmp_path / "3", str(baselines["StableDiffusion3Pipeline"]), prompts, config, device="cpu")


def test_what_is_no_baseline(tmp_path, prompts):
    with pytest.raises(UserError, match=r"has no model_index\.json"):
        generate_baseline(tmp_path / "out", str(tmp_path), prompts)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "model_index.json").write_text('{"_class_name": "NoSuchPipeline"}')
    with pytest.raises(UserError, match="cannot be loaded as a diffusers pipeline"):
        generate_baseline(tmp_path / "out", str(tmp_path / "odd"), prompts, device="cpu")
    (tmp_path / "odd" / "model_index.json").write_text('{"_class_name": ["tessera_pipeline", "TesseraPipeline"]}')
    with pytest.raises(UserError, match="is a pipeline of tessera; give it as the export, without --model"):
        generate_baseline(tmp_path / "out", str(tmp_path / "odd"), prompts, device="cpu")
    for wrong in ({"per_prompt": 0}, {"steps": 0}, {"batch_size": 0}, {"size": 12}, {"seed": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            BaselineConfig(**wrong)
