"""The state of a run: initial weights are exactly these or refused, blocks are compiled where that can be done."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tessera.config import UserError
from tessera.encoded.record import EncodedRecord, quantize
from tessera.models.build import build_network, resize_positions
from tessera.randomness import philox
from tessera.stages import open_stage, read_manifest
from tessera.train import checkpoint, state
from tessera.train.config import RuntimeOptions
from tessera.train.export import ExportConfig, export
from tessera.train.loop import train
from tessera.train.optim.config import OptimConfig
from tessera.train.state import compiles
from tessera.weights.export import ExportInfo, SweepRow, SweepTable, load_export, save_export, set_sampling
from tiny.runs import stop_at
from tiny.training_sets import DIT, RIN, config_of, make_records, write_set


def export_of(folder, model, **changes):
    """An export of random weights, as `tessera export` or `import-published` leaves it."""
    stage = open_stage(folder, stage="export", config={"changes": str(changes), "model": str(model)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = build_network(model)
    facts = {
        "noise_schedule": "linear",
        "prediction": "eps",
        "latent_codec": "pixel-unshuffle:4",
        "text_encoder": "words:16",
        "image_size": 16,
        "null_condition": torch.zeros(1, model.text_width),
    }
    save_export(folder, network, ExportInfo(**(facts | changes)))
    stage.finish({"parameters": 1})
    return folder


def test_a_sweep_of_the_initial_weights_does_not_end_the_run(plain, tmp_path, monkeypatch):
    start, config = export_of(tmp_path / "export", DIT), config_of(augment_prob=0.0)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", plain, None, config, init=start)
    row = SweepRow(guidance_scale=2.5, guidance_interval=(0.1, 0.8), sampling_steps=20, scores={"fid": 9.0})
    set_sampling(start, row, SweepTable(chosen_by="fid", images=8, results_sha256="ef" * 32, rows=(row,)))
    train(tmp_path / "run", plain, None, config, init=start)
    assert read_manifest(tmp_path / "run").complete
    other = export_of(tmp_path / "other", DIT, arm="ta")
    with pytest.raises(UserError, match="was made otherwise: input init"):
        train(tmp_path / "run", plain, None, config, init=other)


@pytest.mark.parametrize("model", [DIT, RIN])
def test_it_starts_from_exactly_these_weights(plain, tmp_path, model):
    start = export_of(tmp_path / "export", model)
    config = config_of(
        model=model, augment_prob=0.0, num_images=8, optim=OptimConfig(lr=1e-12, decay="constant", weight_decay=0.0)
    )
    train(tmp_path / "run", plain, None, config, init=start)
    export(tmp_path / "out", tmp_path / "run", ExportConfig(weights="online"))
    before, after = (load_export(path)[0].state_dict() for path in (start, tmp_path / "out"))
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)
    assert read_manifest(tmp_path / "run").inputs["init"] == read_manifest(start).sha256
    train(tmp_path / "random", plain, None, config)
    export(tmp_path / "other", tmp_path / "random", ExportConfig(weights="online"))
    other = load_export(tmp_path / "other")[0].state_dict()
    assert not torch.allclose(other["text.projection.weight"], before["text.projection.weight"])


def test_the_faster_precision_is_that_of_the_device(plain, tmp_path, monkeypatch):
    for fast, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(state, "is_fast_in_bf16", lambda device, fast=fast: fast)
        for compute in ("auto", precision):
            config = config_of(augment_prob=0.0, num_images=16, compute=compute)
            train(tmp_path / compute / precision, plain, None, config)
            assert read_manifest(tmp_path / compute / precision).facts["compute"] == precision
        weights = [weights_of(tmp_path / compute / precision) for compute in ("auto", precision)]
        assert weights[0] == weights[1]
    assert weights_of(tmp_path / "auto" / "bf16") != weights_of(tmp_path / "auto" / "fp32")


def weights_of(run):
    """The bytes of a run's last weights."""
    return next(path.read_bytes() for path in sorted(checkpoint.latest(run).glob("*.safetensors")))


def larger_set(folder):
    """As `tiny.training_sets.write_set`, with latents of 8 x 8."""
    records = []
    for i in range(12):
        rng = philox(3, "larger", i)
        codes, scale = quantize(rng.standard_normal((2, 16)))
        mean = rng.uniform(-1, 1, (4, 8, 8)).astype(np.float16)
        records.append(
            EncodedRecord(
                key=f"thing/{i}",
                class_name="thing",
                caption="a thing",
                text_codes=codes,
                text_scale=scale,
                latent_mean=mean,
                latent_std=np.zeros_like(mean),
            )
        )
    return write_set(folder, records, shape=(4, 8, 8), image_size=32)


@pytest.mark.parametrize(
    ("small", "large"),
    [(DIT, replace(DIT, latent_size=8, position_grid=2)), (RIN, replace(RIN, latent_size=8))],
)
def test_the_step_to_twice_the_resolution(tmp_path, small, large):
    start = export_of(tmp_path / "export", small)
    config = config_of(model=large, augment_prob=0.0, num_images=8)
    train(tmp_path / "run", larger_set(tmp_path / "set"), None, config, init=start)
    newest = checkpoint.latest(tmp_path / "run")
    assert newest is not None
    state = checkpoint.load(newest).tensors
    if small is RIN:
        assert state["master/interface_positions"].shape == (16, 16)
        table = load_export(start)[0].state_dict()["interface_positions"]
        assert torch.allclose(state["master/interface_positions"], resize_positions(table, 16), atol=0.02)


@pytest.mark.parametrize(
    ("model", "changes", "match"),
    [
        (replace(DIT, depth=3), {}, "depth is 3 there, here 2"),
        (RIN, {}, "they are a RIN's, the model is a DiT"),
        (DIT, {"prediction": "v"}, 'prediction is "v" there, here "eps"'),
        (DIT, {"noise_schedule": "cosine"}, 'noise_schedule is "cosine" there'),
        (DIT, {"latent_codec": "pixel-unshuffle:8"}, "latent_codec is pixel-unshuffle:8 there"),
        (DIT, {"text_encoder": "words:17"}, "text_encoder is words:17 there, here words:16"),
        (DIT, {"latent_scale": (0.5,)}, "latent_scale is"),
        (replace(DIT, latent_size=8), {}, "set position_grid to 4"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(plain, tmp_path, model, changes, match):
    start = export_of(tmp_path / "export", model, **changes)
    with pytest.raises(UserError, match=match):
        train(tmp_path / "run", plain, None, config_of(augment_prob=0.0), init=start)
    assert not (tmp_path / "run").exists()


HASH, OTHER = "0123456789ab" * 5 + "0123", "f" * 64
LOCAL = f"sd-vae@{HASH[:12]}"
"""The id of a folder with the files of this hash."""


def same_start(tmp_path, there, here, known=None):
    """Starts from weights made with the codec `there` on a set made with `here`: facts of each."""
    start = export_of(tmp_path / "export", DIT, **there)
    plain = write_set(tmp_path / "set", make_records(12), **here)
    hash_of = None if known is None else lambda kind, model: known.get((kind, model))
    runtime = RuntimeOptions(content_hash=hash_of)
    train(tmp_path / "run", plain, None, config_of(augment_prob=0.0, num_images=8), init=start, runtime=runtime)
    return plain


@pytest.mark.parametrize("name", ["latent_codec", "text_encoder"])
@pytest.mark.parametrize(
    ("there", "here", "known"),
    [
        (("owner/it", HASH), (LOCAL, HASH), None),
        (("owner/it", HASH), (LOCAL, None), None),
        ((LOCAL, None), ("copy@" + HASH[:12], HASH), None),
        (("owner/it", HASH), ("owner/it@main", HASH), None),
        (("owner/it", None), (LOCAL, HASH), {"owner/it": HASH}),
        (("owner/it", None), ("owner/it@v1", None), {"owner/it": HASH, "owner/it@v1": HASH}),
        (("owner/it", None), ("owner/it", HASH), None),
    ],
)
def test_the_same_network_by_another_name_will_do(tmp_path, name, there, here, known):
    facts = [{name: model} | ({f"{name}_sha256": sha} if sha else {}) for model, sha in (there, here)]
    by_kind = None if known is None else {(name, model): sha for model, sha in known.items()}
    same_start(tmp_path, *facts, by_kind)
    export(tmp_path / "out", tmp_path / "run")
    _, info = load_export(tmp_path / "out")
    assert getattr(info, name) == here[0]
    assert getattr(info, f"{name}_sha256") == here[1]


@pytest.mark.parametrize(
    ("there", "here", "known", "match"),
    [
        (
            ("owner/it", HASH),
            (LOCAL, OTHER),
            None,
            "which is another network; encode the sets again with",
        ),
        (("owner/it", HASH), ("owner/it", OTHER), None, "which is another network"),
        ((LOCAL, None), ("sd-vae@ffffffffffff", None), None, "which is another network"),
        (("owner/it", None), (LOCAL, HASH), {"owner/it": OTHER}, "which is another network"),
        (("owner/it", HASH), ("pixel-unshuffle:4", None), {}, "which is another network"),
        (("owner/it", None), (LOCAL, HASH), {}, "comparing them needs both on this machine; or encode the sets"),
        (
            ("owner/it", None),
            (LOCAL, HASH),
            None,
            f"latent_codec is owner/it there, here {LOCAL}; comparing them",
        ),
    ],
)
def test_another_network_or_one_that_is_not_here_is_refused(tmp_path, there, here, known, match):
    facts = [{"latent_codec": model} | ({"latent_codec_sha256": sha} if sha else {}) for model, sha in (there, here)]
    by_kind = None if known is None else {("latent_codec", model): sha for model, sha in known.items()}
    with pytest.raises(UserError, match=match):
        same_start(tmp_path, *facts, by_kind)
    assert not (tmp_path / "run").exists()


def test_two_sets_of_one_network_fit_by_whatever_name(tmp_path):
    one = write_set(tmp_path / "one", make_records(12), latent_codec="owner/it", latent_codec_sha256=HASH)
    two = write_set(tmp_path / "two", make_records(12), latent_codec=LOCAL)
    train(tmp_path / "run", one, two, config_of(num_images=8))
    other = write_set(tmp_path / "other", make_records(12), latent_codec="owner/it", latent_codec_sha256=OTHER)
    with pytest.raises(UserError, match="latent_codec differs"):
        train(tmp_path / "not", one, other, config_of(num_images=8))


def test_what_is_no_export_is_refused(plain, tmp_path):
    with pytest.raises(UserError, match=r"absent: does not exist, .* make it first with `tessera export`"):
        train(tmp_path / "run", plain, None, config_of(augment_prob=0.0), init=tmp_path / "absent")
    assert not (tmp_path / "run").exists()


def test_split_weights_are_not_compiled(monkeypatch):
    """Gathering the parts of a block within it breaks its compiled program: on GPUs, where blocks are compiled unless
    told otherwise, no split training would come to its first step."""
    monkeypatch.setattr(state, "compiler_fault", lambda device, dtype: None)
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    found = {(c, split): [compiles(RuntimeOptions(compile=c), d, torch.float32, split=split) for d in (gpu, cpu)]
             for c, split in ((None, False), (None, True), (False, True), (True, False))}  # fmt: skip
    assert found == {
        (None, False): [True, False],
        (None, True): [False, False],
        (False, True): [False, False],
        (True, False): [True, True],
    }
    with pytest.raises(UserError, match="leave out --compile or --shard"):
        compiles(RuntimeOptions(compile=True), gpu, torch.float32, split=True)


def test_where_nothing_can_be_compiled_training_goes_on_without(monkeypatch, capsys):
    """A GPU on Windows, in a container without a C compiler, or without bfloat16: by default it trains all the same."""
    asked = []
    monkeypatch.setattr(state, "compiler_fault", lambda *where: asked.append(where) or "no Triton here")
    gpu = torch.device("cuda")
    assert not compiles(RuntimeOptions(), gpu, torch.bfloat16, split=False)
    assert capsys.readouterr().err.count("no Triton here") == 1
    assert asked == [(gpu, torch.bfloat16)]
    assert compiles(RuntimeOptions(compile=True), gpu, torch.bfloat16, split=False)  # the compiler then says it itself
    assert not compiles(RuntimeOptions(compile=False), gpu, torch.bfloat16, split=False)
    assert len(asked) == 1
