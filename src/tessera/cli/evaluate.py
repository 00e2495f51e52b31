"""The verbs that judge images, and the report."""

from pathlib import Path
from typing import Annotated, Literal

from tessera.cli.output import say, say_report, say_scores


def prompts(images: Annotated[Path, "positional"], out: Path, per_task: int = 20, seed: int = 0) -> None:
    """Write the judge's prompts over the miniature: GenEval's six tasks, short and extended.

    Example: tessera prompts images --out prompts

    Args:
        images: Directory made by collect from the miniature.
        out: Directory to make.
        per_task: Prompts of each task.
        seed: Seed of the draws.
    """
    from tessera.prompts.miniature import PromptConfig
    from tessera.prompts.miniature import prompts as prompts_all

    prompts_all(out, images, PromptConfig(per_task=per_task, seed=seed))
    say(out)


def extend_prompts(
    prompts: Annotated[str, "positional"],
    out: Path,
    extender: Literal["llm", "rules"] = "llm",
    model: str | None = None,
    server: str | None = None,
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Extend prompts in the style of the training captions (section 4.1), for generate --extended.

    Example: tessera extend-prompts geneval --out prompts/geneval --extender rules

    Args:
        prompts: geneval, a .jsonl file with "prompt" in each line, or a .txt file.
        out: Directory to make; its prompts.jsonl is for generate --prompts.
        extender: llm, a language model, or rules, which need none.
        model: For llm: of the Hub, a folder, or a name on the server; Llama-3.1 8B Instruct by default.
        server: For llm: address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.
        seed: Each text is a function of (seed, prompt).
        device: cuda, mps or cpu; the best there is by default.
    """
    from tessera.prompts.extend import ExtendConfig
    from tessera.prompts.extend import extend_prompts as extend_all

    if extend_all(out, prompts, ExtendConfig(extender=extender, model=model, server=server, seed=seed), device=device):
        say(out)


def miniature(samples: Annotated[Path, "positional"], out: Path) -> None:
    """Judge images of the miniature: six tasks, colors and seams, with intervals.

    Example: tessera evaluate miniature samples/ta_ia --out scores/ta_ia

    Args:
        samples: Directory made by generate from the judge's prompts.
        out: Directory to make.
    """
    from tessera.evaluate.miniature.evaluate import EvaluateConfig
    from tessera.evaluate.miniature.evaluate import evaluate as evaluate_all

    evaluate_all(out, samples, EvaluateConfig())
    say_scores(out)


def geneval(
    out: Path,
    detector: str,
    samples: Path | None = None,
    extended_samples: Path | None = None,
    clip: str = "openai/clip-vit-large-patch14",
    device: str | None = None,
) -> None:
    """Judge images of GenEval's prompts, original and extended side by side (Table 2); torchrun: on many GPUs.

    Example: tessera evaluate geneval --samples samples/short --extended-samples samples/long --detector F --out scores

    Args:
        out: Directory to make; run again to resume.
        detector: mmdetection's mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth, a
            Mask2Former's folder of transformers, or a Hub repository with either.
        samples: Directory made by generate from --prompts geneval; 4 images of each prompt are usual.
        extended_samples: The same with --extended.
        clip: CLIP ViT-L/14 of the Hub or of a folder, which names the colors.
        device: cuda, mps or cpu; the best there is by default.
    """
    from tessera.evaluate.geneval.evaluate import GenEvalConfig, evaluate_geneval, side_by_side

    config = GenEvalConfig(detector=detector, clip=clip)
    if evaluate_geneval(out, samples, config, extended=extended_samples, device=device):
        say(out, side_by_side(out))


def dpg(
    out: Path,
    samples: Path,
    questions: Path,
    vqa: Literal["blip", "qwen-vl", "openai", "mplug"] = "blip",
    vqa_model: str | None = None,
    server: str | None = None,
    device: str | None = None,
) -> None:
    """Judge images of DPG-Bench's prompts (Table 3), counted in both ways; torchrun: on many GPUs.

    Example: tessera evaluate dpg --samples samples/dpg --questions dpg_bench.csv --vqa blip --out scores/dpg

    Args:
        out: Directory to make; run again to resume.
        samples: Directory made by generate from --prompts dpg:FILE; 4 images of each prompt are usual.
        questions: DPG-Bench's dpg_bench.csv.
        vqa: Answers: blip, qwen-vl, openai (any compatible server), or mplug, the reference (needs modelscope).
        vqa_model: A model of the Hub, a folder, or a name on the server; the backend's own by default.
        server: Address of the server, such as http://127.0.0.1:8000/v1; its key is OPENAI_API_KEY.
        device: cuda, mps or cpu; the best there is by default.
    """
    from tessera.evaluate.dpg.evaluate import DpgConfig, evaluate_dpg

    config = DpgConfig(backend=vqa, model=vqa_model, server=server)
    if evaluate_dpg(out, samples, questions, config, device=device):
        say_scores(out)


def quality(
    samples: Path,
    reference: Path,
    out: Path,
    prompts: Path | None = None,
    metrics: tuple[str, ...] = ("fid", "kid", "fd_dinov2", "prdc", "cmmd", "clip_score"),
    prdc: tuple[str, ...] = ("paper", "full", "dgm-eval"),
    inception: str = "pt_inception-2015-12-05-6726825d.pth",
    dinov2: str = "facebook/dinov2-large",
    clip: str = "openai/clip-vit-large-patch14",
    clip336: str = "openai/clip-vit-large-patch14-336",
    jina: str = "jinaai/jina-clip-v2",
    jina_code: str | None = None,
    allow_remote_code: bool = False,
    legacy_cut: bool = False,
    rounding: Literal["round", "truncate"] = "round",
    name: str | None = None,
    num_images: int | None = None,
    batch_size: int = 32,
    cache: Path | None = None,
    device: str | None = None,
) -> None:
    """Measure FID, FD-DINOv2, precision, recall, KID, CMMD, CLIPScore and more (Table 1); torchrun: on many GPUs.

    Example: tessera evaluate quality --samples samples/ta_ia --reference imagenet/val --out scores/ta_ia

    Args:
        samples: Directory made by generate, or any directory of images.
        reference: Directory of images; or of their features, as the cache has them.
        out: Directory to make; run again to resume.
        prompts: A caption for each image, by lines or JSON lines, where the samples have none.
        metrics: Of fid, kid, fd_dinov2, prdc, cmmd, clip_score, jina_clip_score, or FILE.py:NAME of your own.
        prdc: Protocols of precision and so on: paper, full, dgm-eval.
        inception: Published weights of FID's Inception, .pth or .safetensors: a file, or a Hub repository with it.
        dinov2: Folder or Hub name for transformers, or the original dinov2_vitl14_pretrain.pth.
        clip: CLIPScore's CLIP, a folder or a Hub name.
        clip336: CMMD's CLIP.
        jina: jina-clip-v2, a folder or NAME@COMMIT.
        jina_code: Commit of the repository with jina's code, where that is another one.
        allow_remote_code: Run that code.
        legacy_cut: Cut the end token off captions over 77 tokens, which reproduces the paper.
        rounding: Rounding of .npy images in floating point to bytes.
        name: The model's name in tables.
        num_images: Training images that the model had seen, for curves over training.
        batch_size: Images in one forward.
        cache: Directory of reference images' features.
        device: cuda, mps or cpu; the best there is by default.
    """
    from tessera.config import UserError, from_dict
    from tessera.devices import pick_device
    from tessera.evaluate.quality.config import QualityConfig
    from tessera.evaluate.quality.evaluate import evaluate_quality
    from tessera.evaluate.quality.metrics import load_metric

    given = {"metrics": list(metrics), "prdc": list(prdc), "rounding": rounding}
    config = from_dict(QualityConfig, given | {"batch_size": batch_size}, "evaluate quality")
    for directory in (samples, reference):
        if not directory.is_dir():
            raise UserError(f"{directory}: there is no such directory")
    from tessera.pretrained.features.networks import NETWORKS

    models = {"inception": inception, "dinov2": dinov2, "clip": clip, "clip336": clip336, "jina": jina}
    options = {
        "clip": {"cut": "legacy-cut" if legacy_cut else "keep-end"},
        "jina": {"allow_code": allow_remote_code, "code": jina_code},
    }
    where = pick_device(device)
    networks = {
        key: NETWORKS[key].load(models.get(key, NETWORKS[key].model), where, **options.get(key, {}))
        for key in dict.fromkeys(load_metric(metric).network for metric in config.metrics)
    }
    complete = evaluate_quality(
        out, samples, reference, networks, config, prompts=prompts, name=name, num_images=num_images, cache=cache
    )
    if complete:
        say_scores(out)


def report(
    paths: Annotated[tuple[Path, ...], "positional"],
    out: Path | None = None,
    samples: tuple[Path, ...] = (),
    force: bool = False,
) -> None:
    """Write one self-contained HTML page: about a working folder, or about scores, with the paper's tables.

    Example: tessera report out/miniature

    Args:
        paths: A folder made by run; or directories with a scores.json in them, made by evaluate.
        out: Directory to make; for a working folder, its report/ by default.
        samples: The images of each of the scores, in the same order, shown prompt by prompt.
        force: Put numbers of different protocols in one table.
    """
    from tessera.config import UserError
    from tessera.report.scores_page import is_scores, report_scores

    if not paths:
        raise UserError("report: give a folder made by run, or directories of scores")
    scores = [path for path in paths if is_scores(path)]
    if len(scores) == len(paths):
        if out is None:
            raise UserError("report: give --out, a directory for the page about these scores")
        report_scores(out, paths, samples, force)
        say_report(out / "index.html")
        return
    other = next(path for path in paths if path not in scores)
    if not other.exists():
        raise UserError(f"{other}: there is no such directory or file")
    inside = [str(path.parent) for path in sorted(other.glob("*/scores.json"))]
    if inside:
        raise UserError(f"{other}: has no scores.json itself; give what lies in it, as {' '.join(inside[:3])}")
    if len(paths) > 1 or samples or force:
        raise UserError(f"{other}: has no scores.json; give directories made by `tessera evaluate`, or one made by run")
    from tessera.report.run_page import report as report_all

    report_all(out or other / "report", other)
    say_report((out or other / "report") / "index.html")


def figure_tau(
    out: Path,
    images: Path | None = None,
    schedule: str = "linear",
    codec: str = "pixel-unshuffle:4",
    scale: float = 1.0,
    size: int = 64,
    pictures: int = 64,
    seed: int = 0,
) -> None:
    """Draw Figure 7: CutMix images at rising noise, and how well their seams can still be detected, to choose tau by.

    Example: tessera figure tau --images imagenet/val --schedule linear --codec stabilityai/sd-vae-ft-mse --size 256 --scale 0.18215 --out tau

    Args:
        out: Directory to make: tau.png, tau.md, tau.json.
        images: Folder of images, in class folders if there are classes; renders of the miniature by default.
        schedule: Noise schedule: linear, cosine, sigmoid, scaled_linear, ddpm_linear, or FILE.py:FUNCTION.
        codec: What the noise is added to: pixel-unshuffle:N, or a VAE's folder or Hub name.
        scale: What the training multiplies its latents by.
        size: Side of the images in pixels.
        pictures: Number of images judged.
        seed: Seed of placements and noise.
    """  # noqa: E501
    from tessera.report.figure7 import TauConfig, tau

    config = TauConfig(schedule=schedule, codec=codec, scale=scale, size=size, num_images=pictures, seed=seed)
    tau(out, images, config)
    say(out, (out / "tau.md").read_text(encoding="utf-8"))
