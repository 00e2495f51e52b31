import json
import os
import subprocess
import sys
import types
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

import tessera
from tessera.config import UserError
from tessera.diffusion.sampler import SAMPLERS
from tessera.files import read_json
from tessera.generate.diffusers import pipeline as diffusers_pipeline
from tessera.generate.diffusers.model import TesseraTransformer
from tessera.generate.diffusers.pipeline import TesseraPipeline, load_pipeline
from tessera.generate.folder import GenerateConfig, generate
from tessera.generate.pipeline import Pipeline, sample_noise, step_generators
from tessera.weights.export import CaptionsSeen
from tiny.defaults import CHOICES, torch_defaults
from tiny.pipelines import ADDRESSES, INFO, NETWORKS, PROMPTS, generators, levels, pixels, save_network

LANGUAGES = [
    "一只红色的狐狸",
    "赤いキツネ",
    "빨간 여우",
    "красная лиса",
    "κόκκινη αλεπού",
    "שועל אדום",
    "ثعلب أحمر",
    "روباه قرمز",
    "लाल लोमड़ी",
    "লাল শিয়াল",
    "சிவப்பு நரி",
    "จิ้งจอกแดง",
    "ቀይ ቀበሮ",
    "წითელი მელა",
    "կարմիր աղվես",
    "cáo đỏ",
    "czerwony lis źdźbło",
    "kırmızı tilki",
    "rauður refur",
    "ໝາຈິ້ງຈອກແດງ",
    "🦊❤️‍🔥👩🏽‍🚀 🏳️‍🌈",
]


def test_pictures_are_those_of_the_plain_pipeline(pipe, export, noise):
    expected = Pipeline.load(export, device="cpu").images(PROMPTS, ADDRESSES, seed=5)
    np.testing.assert_array_equal(pixels(pipe, noise), expected)


def test_guidance_acts_in_its_interval(pipe, export, noise):
    interval = (0.3, 0.7)
    expected = Pipeline.load(export, device="cpu").images(PROMPTS, ADDRESSES, seed=5, guidance_interval=interval)
    drawn = pipe(PROMPTS, latents=noise, guidance_interval=interval).images
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in drawn]), expected)


def test_diffusers_finds_the_blocks_to_compile(pipe, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: compiled.append(module))
    pipe.transformer.compile_repeated_blocks()
    assert compiled == list(pipe.transformer.denoiser.blocks)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_works_and_is_the_plain_pipelines(pipe, export, noise, sampler):
    plain = Pipeline.load(export, device="cpu")
    expected = plain.images(PROMPTS, ADDRESSES, seed=5, sampler=sampler, steps=4, guidance_scale=1.5)
    found = levels(
        pipe,
        PROMPTS,
        latents=noise,
        generator=step_generators(ADDRESSES, 5),
        sampler=sampler,
        num_inference_steps=4,
        guidance_scale=1.5,
    )
    np.testing.assert_array_equal(found, expected)


def run_python(program, *arguments, cwd=None):
    environment = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(tessera.__file__))}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_saved_pipelines_draw_the_same_pixels_in_a_new_process(noise, tmp_path, monkeypatch):
    """By diffusers alone with the user's flag, which imports no tessera itself, and by tessera; also where the folder
    was moved to another name, saved again by what diffusers loaded, or saved in half precision."""
    expected = {}
    for kind in NETWORKS:  # both in one process: importing diffusers takes seconds
        pipe = load_pipeline(save_network(tmp_path / "export" / kind, kind), device="cpu")
        pipe.set_progress_bar_config(disable=True)
        pipe.save_pretrained(tmp_path / kind)
        expected[kind] = pixels(pipe, noise)
    load_pipeline(tmp_path / "dit", device="cpu", dtype=torch.float16).save_pretrained(tmp_path / "half")
    half = load_pipeline(tmp_path / "half", device="cpu")
    half.set_progress_bar_config(disable=True)
    expected["half"] = pixels(half, noise)
    np.save(tmp_path / "noise.npy", noise.numpy())
    program = (
        "import os, sys, json, numpy as np, torch\n"
        "from diffusers import DiffusionPipeline\n"
        "torch.set_num_threads(1)\n"
        "noise = torch.from_numpy(np.load('noise.npy'))\n"
        "try:\n"
        "    DiffusionPipeline.from_pretrained(sys.argv[2])\n"
        "except ValueError as error:\n"
        "    assert 'Pass `trust_remote_code=True`' in str(error), error\n"
        "assert 'tessera' not in sys.modules\n"
        "pipes = {f'{kind}-flag': DiffusionPipeline.from_pretrained(kind, trust_remote_code=True)"
        " for kind in sys.argv[2:]}\n"
        "flags = {'custom_pipeline': 'tessera_pipeline', 'trust_remote_code': True}\n"
        "pipes['dit-custom'] = DiffusionPipeline.from_pretrained('dit', **flags)\n"
        "pipes['half-flag'] = DiffusionPipeline.from_pretrained('half', trust_remote_code=True, device_map='cpu')\n"
        "pipes['rin-flag'].save_pretrained('again')\n"
        "pipes['rin-again'] = DiffusionPipeline.from_pretrained('again', trust_remote_code=True)\n"
        "os.rename('again', 'my model 1.5-x')\n"
        "pipes['rin-moved'] = DiffusionPipeline.from_pretrained('./my model 1.5-x/', trust_remote_code=True)\n"
        "import tessera\n"
        "pipes |= {f'{kind}-own': tessera.load_pipeline(kind, device='cpu') for kind in sys.argv[2:]}\n"
        "for name, pipe in pipes.items():\n"
        "    images = pipe(json.loads(sys.argv[1]), latents=noise).images\n"
        "    np.save(f'{name}.npy', np.stack([np.asarray(image) for image in images]))\n"
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))  # diffusers copies the code there
    run_python(program, json.dumps(PROMPTS), *NETWORKS, cwd=tmp_path)
    siblings = ["dit-custom", "half-flag", "rin-again", "rin-moved"]
    for file in [f"{kind}-{way}" for kind in NETWORKS for way in ("flag", "own")] + siblings:
        np.testing.assert_array_equal(np.load(tmp_path / f"{file}.npy"), expected[file.partition("-")[0]])


def test_the_code_of_a_folder_names_what_is_missing(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path)
    for file in (tmp_path / "tessera_pipeline.py", tmp_path / "transformer" / "tessera_transformer.py"):
        program = file.read_text(encoding="utf-8")
        found: dict = {}
        exec(program, found)
        assert found[{"tessera_pipeline": "TesseraPipeline"}.get(file.stem, "TesseraTransformer")].__doc__
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "tessera", None)
            patch.setitem(sys.modules, "tessera.generate.diffusers.pipeline", None)
            patch.setitem(sys.modules, "tessera.generate.diffusers.model", None)
            with pytest.raises(ImportError, match=r'this model needs tessera: pip install "tessera-t2i\[hub\]"'):
                exec(program, {})


def test_saved_folder_is_known_to_diffusers_and_to_tessera(pipe, export, noise, tmp_path):
    pipe.save_pretrained(tmp_path)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    parts = [f"transformer/{name}" for name in ("config.json", "manifest.json", "model.safetensors")]
    parts.append("transformer/tessera_transformer.py")
    assert files == ["README.md", "model_index.json", "tessera_pipeline.py", *parts]
    index = read_json(tmp_path / "model_index.json")
    assert index["_class_name"] == ["tessera_pipeline", "TesseraPipeline"]
    assert index["transformer"] == ["tessera_transformer", "TesseraTransformer"]
    assert str(tmp_path) not in json.dumps(index)
    for name in ("tessera_pipeline.py", "transformer/tessera_transformer.py"):
        (tmp_path / name).write_text("raise SystemExit('the code of a folder was run')")  # tessera runs its own
    again = TesseraPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(pixels(again, noise), pixels(pipe, noise))
    for name in ("config.json", "model.safetensors"):  # the folder of the network is the export itself
        assert (tmp_path / "transformer" / name).read_bytes() == (export / name).read_bytes()
    transformer = TesseraTransformer.from_pretrained(tmp_path, subfolder="transformer")
    assert transformer.info.settings == INFO.settings
    assert torch.equal(transformer.info.null_condition, INFO.null_condition)
    config = TesseraTransformer.load_config(tmp_path / "transformer")
    assert isinstance(config, dict)
    rebuilt = TesseraTransformer.from_config(config)
    assert isinstance(rebuilt, TesseraTransformer)
    assert rebuilt.denoiser.config == pipe.transformer.denoiser.config


def test_the_verb_draws_with_what_was_saved(pipe, export, noise, tmp_path):
    """And knows the folder of images again, but not for other weights."""
    pipe.save_pretrained(tmp_path / "saved")
    out, saved, config = tmp_path / "samples", tmp_path / "saved" / "transformer", GenerateConfig(per_prompt=1, seed=5)
    assert generate(out, saved, PROMPTS[:1], config, device="cpu")
    with Image.open(out / "00000" / "samples" / "0000.png") as drawn:
        expected = Pipeline.load(export, device="cpu").images(PROMPTS[:1], ADDRESSES[:1], seed=5)
        np.testing.assert_array_equal(np.asarray(drawn), expected[0])
    pipe.save_pretrained(tmp_path / "saved")
    assert generate(out, saved, PROMPTS[:1], config, device="cpu")
    assert generate(out, tmp_path / "saved", PROMPTS[:1], config, device="cpu")  # the pipeline's folder will do
    load_pipeline(export, device="cpu", dtype=torch.bfloat16).save_pretrained(tmp_path / "saved")
    with pytest.raises(UserError, match="input export"):
        generate(out, saved, PROMPTS[:1], config, device="cpu")


def test_half_precision(pipe, export, noise, tmp_path):
    half = load_pipeline(export, device="cpu", dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert half.dtype == torch.bfloat16
    half.save_pretrained(tmp_path)
    again = load_pipeline(tmp_path, device="cpu", dtype=torch.bfloat16)
    again.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(pixels(again, noise), pixels(half, noise))
    again = TesseraPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    again.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(pixels(again, noise), pixels(half, noise))
    assert np.abs(pixels(half, noise).astype(int) - pixels(pipe, noise)).mean() < 8
    half.to(torch.float32)
    assert pixels(half, noise).shape == (3, 16, 16, 3)


def test_the_card_is_saved_with_the_weights(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, scores={"fid": 6.16}, data="Renders of shapes.", license="cc-by-nc-4.0")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    for text in (
        "license: cc-by-nc-4.0\n",
        "| training images seen | 1,234 |",
        "Renders of shapes.",
        "| fid | 6.16 |  |",
        'tessera.load_pipeline("this folder or repository")',
        'DiffusionPipeline.from_pretrained("this folder or repository", trust_remote_code=True)',
    ):
        assert text in card
    with pytest.raises(UserError, match="scores"):
        pipe.save_pretrained(tmp_path / "c", scores={})


def test_push_to_hub_publishes_weights_and_card(pipe, monkeypatch):
    seen = {}

    def create_repo(repo_id, **options):
        seen["create"] = (repo_id, options["private"])
        return types.SimpleNamespace(repo_id=repo_id)

    def upload(self, folder, repo_id, **options):
        seen["files"] = sorted(path.name for path in folder.rglob("*") if path.is_file())
        seen["card"] = (folder / "README.md").read_text(encoding="utf-8")
        seen["upload"] = (repo_id, options["commit_message"])

    monkeypatch.setattr(diffusers_pipeline, "create_repo", create_repo)
    monkeypatch.setattr(TesseraPipeline, "_upload_folder", upload)
    pipe.push_to_hub("me/foxes", "first", private=True, data="Renders of shapes.")
    assert seen["create"] == ("me/foxes", True)
    assert seen["upload"] == ("me/foxes", "first")
    code = ["tessera_pipeline.py", "tessera_transformer.py"]
    assert seen["files"] == [
        "README.md",
        "config.json",
        "manifest.json",
        "model.safetensors",
        "model_index.json",
        *code,
    ]
    assert "Renders of shapes." in seen["card"]


def test_a_hub_name_is_fetched(pipe, export, noise, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path)
    folders = {"me/saved": tmp_path, "me/export": export}

    def snapshot(repo, **options):
        assert {"model_index.json", "transformer/*.safetensors", "model.safetensors"} <= set(options["allow_patterns"])
        return str(folders[repo])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for make in (
        lambda: load_pipeline("me/saved", device="cpu"),
        lambda: load_pipeline("me/export", device="cpu"),
        lambda: TesseraPipeline.from_pretrained("me/saved"),
    ):
        found = make()
        found.set_progress_bar_config(disable=True)
        np.testing.assert_array_equal(pixels(found, noise), pixels(pipe, noise))


def test_batch_of_n_is_n_batches_of_one(pipe):
    for sampler in ("ddim", "ddpm"):
        together = levels(pipe, PROMPTS, num_images_per_prompt=2, generator=generators(6), sampler=sampler)
        for k, generator in enumerate(generators(6)):
            alone = levels(pipe, PROMPTS[k // 2], generator=[generator], sampler=sampler)
            assert np.abs(together[k] - alone[0]).max() <= 1


def test_generator_decides_the_noise(pipe):
    first, again, other = (levels(pipe, "a fox", generator=torch.Generator().manual_seed(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with torch.random.fork_rng(devices=[]):  # no generator: torch's own
        torch.manual_seed(0)
        free = levels(pipe, "a fox", sampler="ddpm")
        assert not np.array_equal(free, levels(pipe, "a fox", sampler="ddpm"))
        torch.manual_seed(0)
        np.testing.assert_array_equal(free, levels(pipe, "a fox", sampler="ddpm"))


def test_negative_prompt_stands_in_for_the_null_condition(pipe, noise):
    plain = levels(pipe, PROMPTS, latents=noise)
    long = "a blurred picture of five grey stars and nothing else at all in a very dark night over a brick wall"
    changed = levels(pipe, PROMPTS, negative_prompt=long, latents=noise)
    assert not np.array_equal(plain, changed)
    each = levels(pipe, PROMPTS, negative_prompt=[long, "", "a circle"], latents=noise)
    assert np.abs(each[0] - changed[0]).max() <= 1
    assert np.abs(each[1] - plain[1]).max() <= 1  # the null condition is the encoding of ""
    assert np.abs(each[2] - changed[2]).max() > 1
    repeated = levels(
        pipe,
        PROMPTS,
        negative_prompt=[long, "", "a circle"],
        num_images_per_prompt=2,
        latents=noise.repeat_interleave(2, 0),
    )
    assert np.abs(repeated - each.repeat(2, 0)).max() <= 1
    off = [levels(pipe, PROMPTS, negative_prompt=n, guidance_scale=1.0, latents=noise) for n in (None, long)]
    np.testing.assert_array_equal(*off)
    np.testing.assert_array_equal(plain, levels(pipe, PROMPTS, latents=noise))  # nothing of it stays


@pytest.mark.parametrize("interval", [None, (0.0, 0.7)])
def test_negative_prompt_keeps_the_coherence_of_its_branch(noise, tmp_path, interval):
    """The published CAD-I with its coherence token has 1 in the branch of the prompt and 0 in the other."""
    config = replace(NETWORKS["rin"], coherence=True)
    pipe = tessera.load_pipeline(save_network(tmp_path, config), device="cpu")
    pipe.set_progress_bar_config(disable=True)
    plain = levels(pipe, PROMPTS, latents=noise, guidance_interval=interval)
    empty = levels(pipe, PROMPTS, negative_prompt="", latents=noise, guidance_interval=interval)
    assert np.abs(empty - plain).max() <= 1  # the null condition is the encoding of ""


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_a_programs_own_torch_defaults_change_no_image(pipe, export, noise, choice):
    expected = levels(pipe, "a fox", latents=noise[:1])
    with torch_defaults(choice):
        drawn, loaded = levels(pipe, "a fox", latents=noise[:1]), load_pipeline(export, "cpu")
        loaded.set_progress_bar_config(disable=True)
        assert np.array_equal(levels(loaded, "a fox", latents=noise[:1]), expected)
    assert np.array_equal(drawn, expected)


def test_negative_prompt_of_the_prompt_itself_turns_guidance_off(pipe, noise):
    same = levels(pipe, PROMPTS, negative_prompt=PROMPTS, guidance_scale=5.0, latents=noise)
    assert np.abs(same - levels(pipe, PROMPTS, guidance_scale=1.0, latents=noise)).max() <= 1


def test_output_types(pipe, noise):
    pil = pipe(PROMPTS, latents=noise).images
    assert all(isinstance(image, Image.Image) and image.size == (16, 16) for image in pil)
    expected = np.stack([np.asarray(image) for image in pil])
    array = pipe(PROMPTS, latents=noise, output_type="np").images
    assert array.dtype == np.float32
    np.testing.assert_array_equal(np.rint(array * 255), expected)
    tensor = pipe(PROMPTS, latents=noise, output_type="pt").images
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    latents = pipe(PROMPTS, latents=noise, output_type="latent").images
    assert latents.shape == (3, 48, 4, 4)
    np.testing.assert_array_equal(pipe._prepare_drawer().decode(latents), expected)
    assert isinstance(pipe(PROMPTS, latents=noise, return_dict=False), tuple)


def test_any_text_can_be_drawn(pipe):
    images = pipe([*LANGUAGES, "", "   ", "\n\t", "' OR 1=1; --"], num_inference_steps=1).images
    assert len(images) == len(LANGUAGES) + 4
    assert len(pipe("").images) == 1


def test_callback_sees_every_step_and_may_stop(pipe, noise):
    seen = []

    def look(given, step, t, tensors):
        assert given is pipe
        seen.append((step, round(t, 6), tuple(tensors["latents"].shape)))
        tensors["latents"].zero_()  # a copy: nothing changes
        return tensors

    plain = levels(pipe, PROMPTS, latents=noise, num_inference_steps=4, sampler="dpmpp_2m")
    watched = levels(pipe, PROMPTS, latents=noise, num_inference_steps=4, sampler="dpmpp_2m", callback_on_step_end=look)
    np.testing.assert_array_equal(plain, watched)
    assert seen == [(k, t, (3, 48, 4, 4)) for k, t in enumerate((1.0, 0.75, 0.5, 0.25))]

    estimates = []

    def stop(given, step, t, tensors):
        estimates.append(tensors["latents"])
        given._interrupt = step == 1

    result = pipe(PROMPTS, latents=noise, num_inference_steps=4, callback_on_step_end=stop, output_type="latent")
    assert len(estimates) == 2
    assert torch.equal(result.images, estimates[-1])
    assert pipe.interrupt
    assert not np.array_equal(levels(pipe, PROMPTS, latents=noise), plain * 0)
    assert not pipe.interrupt


def test_placement_follows_the_pipeline(pipe, noise, monkeypatch):
    """What accelerate's hook does for model offloading: the network is fetched before each call, and let go after."""
    calls = []
    monkeypatch.setattr(
        pipe.transformer,
        "_hf_hook",
        types.SimpleNamespace(pre_forward=lambda module: calls.append(module), execution_device=torch.device("cpu")),
        raising=False,
    )
    monkeypatch.setattr(TesseraPipeline, "maybe_free_model_hooks", lambda self: calls.append("free"))
    pipe(PROMPTS, latents=noise)
    assert calls == [pipe.transformer, "free"]


def test_model_offloading(export, noise, pipe):
    offloaded = load_pipeline(export, device="cpu")
    offloaded.set_progress_bar_config(disable=True)
    if not torch.cuda.is_available() and not torch.backends.mps.is_available():
        with pytest.raises((RuntimeError, ImportError), match="accelerat"):  # diffusers' own words
            offloaded.enable_model_cpu_offload()
        with pytest.raises((RuntimeError, ImportError), match="accelerat"):
            offloaded.enable_sequential_cpu_offload()
    pytest.importorskip("accelerate")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for enable in (offloaded.enable_model_cpu_offload, offloaded.enable_sequential_cpu_offload):
        enable(device=device)
        for _ in range(2):
            assert np.abs(pixels(offloaded, noise).astype(int) - pixels(pipe, noise)).max() <= 1


def test_mistakes_in_loading_and_saving_are_named_in_one_line(pipe, export, tmp_path):
    def check(named, call, *arguments, **options):
        with pytest.raises(UserError, match=named) as raised:
            call(*arguments, **options)
        assert "\n" not in str(raised.value)

    check("no such folder", load_pipeline, tmp_path / "not" / "there" / "at" / "all")
    check("no such folder", TesseraPipeline.from_pretrained, "nothing")
    check("is not an export", load_pipeline, tmp_path)
    (tmp_path / "config.json").write_text('{"path_size": 2, "data_size": 32}', encoding="utf-8")
    check("tessera import-published", load_pipeline, tmp_path)
    check("unknown device", load_pipeline, export, device="gpu")
    check("dtype", load_pipeline, export, dtype="float16")
    check("dtype", load_pipeline, export, dtype=torch.int8)
    check("safetensors", pipe.save_pretrained, tmp_path / "a", safe_serialization=False)
    check("variant", pipe.save_pretrained, tmp_path / "a", variant="fp16")
    assert not (tmp_path / "a").exists()

    pipe.save_pretrained(tmp_path / "b")
    weights = tmp_path / "b" / "transformer" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    check("model.safetensors", load_pipeline, tmp_path / "b")
    check("quantization_config", TesseraTransformer.from_pretrained, export, quantization_config={})
    (tmp_path / "b" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}', encoding="utf-8")
    check("StableDiffusionPipeline, not of a TesseraPipeline", load_pipeline, tmp_path / "b")


def test_missing_package_is_named(monkeypatch, export):
    monkeypatch.delitem(sys.modules, "tessera.generate.diffusers.pipeline")
    monkeypatch.delattr(sys.modules["tessera.generate.diffusers"], "pipeline")
    monkeypatch.delitem(sys.modules, "tessera.generate.diffusers.model")
    for name in [name for name in sys.modules if name.partition(".")[0] == "diffusers"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r'pip install .*"diffusers>='):
        tessera.load_pipeline(export)


def test_importing_tessera_loads_nothing():
    program = "import sys, tessera; print([n for n in ('torch', 'numpy', 'diffusers') if n in sys.modules])"
    assert run_python(program).strip() == "[]"


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
        ({"guidance_interval": 0.5}, "guidance interval: 0.5 is not"),
        ({"guidance_interval": (200, 800)}, "guidance interval: .* 0 <= low <= high <= 1"),
        ({"height": 17}, "size: '16x17' is none that this model was trained at; give one of 16x16"),
        ({"width": 64}, "size: '64x16' is none"),
        ({"width": 0}, "size: '0x16' is none"),
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


def test_images_of_the_sizes_that_it_was_trained_at(tmp_path, make_export):
    """Are those of the plain pipeline."""
    export = make_export(tmp_path / "export", sizes=("16x16", "24x8"))
    pipe = load_pipeline(export, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    expected = Pipeline.load(export, device="cpu").images(PROMPTS, ADDRESSES, seed=5, size="24x8")
    drawn = pipe(PROMPTS, latents=sample_noise((48, 2, 6), ADDRESSES, 5), width=24, height=8).images
    np.testing.assert_array_equal(np.stack([np.asarray(image) for image in drawn]), expected)
    assert pipe("a fox", width=24, height=8).images[0].size == (24, 8)
    assert pipe("a fox").images[0].size == (16, 16)
    with pytest.raises(UserError, match="size: '24x16' is none that this model was trained at; give one of 16x16, 24x"):
        pipe("a fox", width=24)


def test_a_prompt_unlike_the_captions_draws_a_warning(tmp_path, make_export):
    seen = CaptionsSeen(tokens=(3, 9), vocabulary=("a", "fox"))
    pipe = load_pipeline(make_export(tmp_path / "export", captions=seen))
    with pytest.warns(UserWarning, match="mean nothing to this model: 'kitten'") as found:
        pipe(["a fox", "a kitten"], negative_prompt="dogs")
    assert [warning.filename for warning in found] == [__file__]


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


@pytest.mark.parametrize(
    ("noise_schedule", "kind", "said"),
    [
        ("flow", "DDIMScheduler", 'DDIMScheduler cannot hold this model\'s noise schedule, flow; .*sampler="euler"'),
        ("flow", "FlowMatchHeunDiscreteScheduler", 'the pipeline brings its own samplers; .*sampler="heun"'),
        ("linear", "DPMSolverMultistepScheduler", 'the pipeline brings its own samplers; .*sampler="dpmpp_2m"'),
        ("linear", "FlowMatchEulerDiscreteScheduler", ".* cannot hold this model's noise schedule, linear"),
        ("flow", "PNDMScheduler", '.* cannot hold .*, flow; leave it out and call the pipeline with sampler="euler"'),
    ],
)
def test_a_scheduler_is_refused_with_the_sampler_that_does_its_steps(tmp_path, noise_schedule, kind, said):
    import diffusers

    pipe = load_pipeline(save_network(tmp_path / "export", "dit", noise_schedule=noise_schedule), device="cpu")
    with pytest.raises(UserError, match=f"^scheduler: {said}"):
        pipe.scheduler = getattr(diffusers, kind)()


def test_a_scheduler_given_to_from_pretrained_is_refused_too(tmp_path):
    load_pipeline(save_network(tmp_path / "export", "dit"), device="cpu").save_pretrained(tmp_path / "saved")
    scheduler = types.SimpleNamespace()
    with pytest.raises(UserError, match=r'scheduler: SimpleNamespace cannot hold .*, linear; .*sampler="ddim"'):
        TesseraPipeline.from_pretrained(tmp_path / "saved", scheduler=scheduler)
