"""The verbs that judge images, and the report."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tessera.cli.options import Device, ExtenderModel, Out, ResumableOut, Server
from tessera.cli.output import say, say_report, say_scores


def prompts(
    images: Annotated[Path, "positional", "Directory made by collect from the miniature."],
    out: Out,
    per_task: Annotated[int, "Prompts of each task."] = 20,
    seed: Annotated[int, "Seed of the draws."] = 0,
) -> None:
    """Write the judge's prompts over the miniature: GenEval's six tasks, short and extended.

    Example: tessera prompts images --out prompts
    """
    from tessera.prompts import miniature as stage

    stage.prompts(out, images, stage.PromptConfig(per_task=per_task, seed=seed))
    say(out)


def extend_prompts(
    prompts: Annotated[str, "positional", 'geneval, a .jsonl file with "prompt" in each line, or a .txt file.'],
    out: Annotated[Path, "Directory to make; its prompts.jsonl is for generate --prompts."],
    extender: Annotated[Literal["llm", "rules"], "llm, a language model, or rules, which need none."] = "llm",
    model: ExtenderModel = None,
    server: Server = None,
    seed: Annotated[int, "Each text is a function of (seed, prompt)."] = 0,
    device: Device = None,
) -> None:
    """Extend prompts in the style of the training captions (section 4.1), for generate --extended.

    Example: tessera extend-prompts geneval --out prompts/geneval --extender rules
    """
    from tessera.prompts import extend

    config = extend.ExtendConfig(extender=extender, model=model, server=server, seed=seed)
    if extend.extend_prompts(out, prompts, config, device=device):
        say(out)


def miniature(
    samples: Annotated[Path, "positional", "Directory made by generate from the judge's prompts."],
    out: Out,
    training: Annotated[Path | None, "Directory made by collect: also look for copies of its images."] = None,
) -> None:
    """Judge images of the miniature: six tasks, colors, seams, and copies of training images, with intervals.

    Example: tessera evaluate miniature samples/ta_ia/extended --training images --out scores/ta_ia
    """
    from tessera.evaluate.miniature import evaluate as stage

    stage.evaluate(out, samples, stage.EvaluateConfig(), training=training)
    say_scores(out)


def drawings(
    samples: Annotated[Path, "positional", "Directory made by generate from the prompts of an emoji run."],
    judge: Annotated[Path, "The judge that the run trained."],
    out: Out,
) -> None:
    """Judge images of drawings by the judge of their run: six tasks, with intervals and the judge's own accuracy.

    Example: tessera evaluate drawings samples/emoji --judge out/emoji/judge --out scores/emoji
    """
    from tessera.evaluate.drawings.evaluate import evaluate_drawings

    evaluate_drawings(out, samples, judge)
    say_scores(out)


def geneval(
    out: ResumableOut,
    detector: str,
    samples: Annotated[Path | None, "Directory made by generate from --prompts geneval, usually 4 images each."] = None,
    extended_samples: Annotated[Path | None, "The same with --extended."] = None,
    clip: Annotated[str, "CLIP ViT-L/14 that names the colors."] = "openai/clip-vit-large-patch14",
    device: Device = None,
) -> None:
    """Judge images of GenEval's prompts, original and extended side by side (Table 2); torchrun: on many GPUs.

    Example: tessera evaluate geneval --samples samples/short --extended-samples samples/long --detector F --out scores

    Args:
        detector: mmdetection's mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco_20220504_001756-743b7d99.pth, a
            Mask2Former's folder of transformers, or a Hub repository with either.
    """
    from tessera.evaluate.geneval.evaluate import GenEvalConfig, evaluate_geneval, side_by_side

    config = GenEvalConfig(detector=detector, clip=clip)
    if evaluate_geneval(out, samples, config, extended=extended_samples, device=device):
        say(out, side_by_side(out))


def dpg(
    out: ResumableOut,
    samples: Annotated[Path, "Directory made by generate from --prompts dpg:FILE; 4 images of each prompt are usual."],
    questions: Annotated[Path, "DPG-Bench's dpg_bench.csv."],
    vqa: Literal["blip", "qwen-vl", "openai", "mplug"] = "blip",
    vqa_model: Annotated[str | None, "Repository, folder or name on the server; the backend's own by default."] = None,
    server: Server = None,
    device: Device = None,
) -> None:
    """Judge images of DPG-Bench's prompts (Table 3), counted in both ways; torchrun: on many GPUs.

    Example: tessera evaluate dpg --samples samples/dpg --questions dpg_bench.csv --vqa blip --out scores/dpg

    Args:
        vqa: Answers: blip, qwen-vl, openai (any compatible server), or mplug, the reference (needs modelscope).
    """
    from tessera.evaluate.dpg.evaluate import DpgConfig, evaluate_dpg

    config = DpgConfig(backend=vqa, model=vqa_model, server=server)
    if evaluate_dpg(out, samples, questions, config, device=device):
        say_scores(out)


def questions(
    out: ResumableOut,
    samples: Annotated[Path, "Directory made by generate from --prompts questions:FILE."],
    benchmark: Annotated[str, "geneval2, vqascore, or a name for a table of your own."] = "geneval2",
    questions: Path | None = None,
    vqa: Annotated[Literal["qwen-vl", "openai"], "Qwen3-VL or Qwen2.5-VL, or any compatible server."] = "qwen-vl",
    vqa_model: Annotated[str | None, "Repository, folder or name on the server; Qwen3-VL-8B by default."] = None,
    server: Server = None,
    words: Annotated[bool, "Count answers in words, not probabilities: for servers without log-probabilities."] = False,
    short: Annotated[Path | None, "Scores of the short prompts' images: samples of the long ones are compared."] = None,
    device: Device = None,
) -> None:
    """Judge images by questions: GenEval 2's Soft-TIFA, VQAScore, your own table; torchrun: on many GPUs.

    Example: tessera evaluate questions --samples samples/geneval2 --questions geneval2_data.jsonl --out scores/geneval2

    Args:
        questions: geneval2_data.jsonl, or a table with the columns prompt, question, dimension, answer; vqascore needs
            none, and takes prompt and dimension of one.
    """
    from tessera.evaluate.soft_tifa import QuestionsConfig, evaluate_questions

    config = QuestionsConfig(benchmark=benchmark, backend=vqa, model=vqa_model, server=server, words=words)
    if evaluate_questions(out, samples, questions, config, short=short, device=device):
        say_scores(out)


def quality(
    samples: Annotated[Path, "Directory made by generate, or any directory of images."],
    reference: Annotated[Path, "Directory of images; or of their features, as the cache has them."],
    out: ResumableOut,
    prompts: Annotated[Path | None, "A caption for each image, in lines or JSON lines, if samples have none."] = None,
    metrics: tuple[str, ...] = ("fid", "kid", "fd_dinov2", "prdc", "cmmd", "clip_score"),
    prdc: Annotated[tuple[str, ...], "Protocols of precision and so on."] = ("paper", "full", "dgm-eval"),
    inception: str = "pt_inception-2015-12-05-6726825d.pth",
    dinov2: Annotated[str, "A folder, a repository, or dinov2_vitl14_pretrain.pth."] = "facebook/dinov2-large",
    clip: Annotated[str, "CLIPScore's CLIP, a folder or a Hub name."] = "openai/clip-vit-large-patch14",
    clip336: Annotated[str, "CMMD's CLIP."] = "openai/clip-vit-large-patch14-336",
    pickscore: Annotated[str, "PickScore's CLIP."] = "yuvalkirstain/PickScore_v1",
    hpsv2: Annotated[str, "HPSv2 with transformers' names."] = "adams-story/HPSv2-hf",
    convnextv2: Annotated[str, "ConvNeXtV2, a folder or a Hub name."] = "facebook/convnextv2-base-22k-224",
    mae: Annotated[str, "MAE."] = "facebook/vit-mae-large",
    siglip2: Annotated[str, "SigLIP2 of one size."] = "google/siglip2-so400m-patch16-256",
    clip_vision: Annotated[str, "CLIP of fd_clip and mind_clip."] = "openai/clip-vit-large-patch14",
    jina: Annotated[str, "jina-clip-v2, a folder or NAME@COMMIT."] = "jinaai/jina-clip-v2",
    jina_code: Annotated[str | None, "Commit of the repository with jina's code, where that is another one."] = None,
    allow_remote_code: Annotated[bool, "Run that code."] = False,
    legacy_cut: Annotated[bool, "Cut the end token off captions over 77 tokens, which reproduces the paper."] = False,
    rounding: Annotated[Literal["round", "truncate"], "Rounding of .npy images in floating point to bytes."] = "round",
    name: Annotated[str | None, "The model's name in tables."] = None,
    num_images: Annotated[int | None, "Training images that the model had seen, for curves over training."] = None,
    batch_size: Annotated[int, "Images in one forward."] = 32,
    cache: Annotated[Path | None, "Directory of images' features."] = None,
    device: Device = None,
) -> None:
    """Measure FID, FD-DINOv2, precision, recall, KID, CMMD, CLIPScore and more (Table 1); torchrun: on many GPUs.

    Example: tessera evaluate quality --samples samples/ta_ia --reference imagenet/val --out scores/ta_ia

    Args:
        metrics: Of fid, kid, mind, fd_dinov2, prdc, cmmd, clip_score, pick_score, hpsv2, jina_clip_score; fd_NETWORK
            and mind_NETWORK of dinov2, convnextv2, mae, siglip2, clip; or FILE.py:NAME of your own.
        inception: Published weights of FID's Inception, .pth or .safetensors: a file, or a Hub repository with it.
    """
    from tessera.config import UserError
    from tessera.devices import pick_device
    from tessera.evaluate.quality.evaluate import evaluate_quality
    from tessera.evaluate.quality.metrics import QualityConfig, load_metric

    config = QualityConfig(metrics=metrics, prdc=prdc, rounding=rounding, batch_size=batch_size)
    chosen = [load_metric(metric) for metric in config.metrics]
    for directory in (samples, reference):
        if not directory.is_dir():
            raise UserError(f"{directory}: there is no such directory")
    from tessera.pretrained.features.networks import NETWORKS

    models = {"inception": inception, "dinov2": dinov2, "clip": clip, "clip336": clip336, "jina": jina}
    models |= {"pickscore": pickscore, "hpsv2": hpsv2, "convnextv2": convnextv2, "mae": mae, "siglip2": siglip2}
    models |= {"clip_vision": clip_vision}
    options = {
        "clip": {"cut": "legacy-cut" if legacy_cut else "keep-end"},
        "jina": {"allow_code": allow_remote_code, "code": jina_code},
    }
    where = pick_device(device)
    networks = {
        key: NETWORKS[key].load(models.get(key, NETWORKS[key].model), where, **options.get(key, {}))
        for key in dict.fromkeys(metric.network for metric in chosen)
    }
    if evaluate_quality(
        out, samples, reference, networks, config, prompts=prompts, name=name, num_images=num_images, cache=cache
    ):
        say_scores(out)


def copies(
    samples: Annotated[Path, "positional", "Directory made by generate, or any directory of images."],
    training: Annotated[Path, "Directory of the training images, such as one made by collect."],
    out: ResumableOut,
    held_out: Annotated[Path | None, "Images that no training saw: the yardstick; else training images are."] = None,
    prompts: Annotated[Path | None, "A caption for each image, for intervals, if samples have none."] = None,
    dinov2: Annotated[str, "A folder, a repository, or dinov2_vitl14_pretrain.pth."] = "facebook/dinov2-large",
    sscd: Annotated[str | None, "SSCD's sscd_disc_mixup.torchvision.pt or .safetensors, for a second opinion."] = None,
    rounding: Annotated[Literal["round", "truncate"], "Rounding of .npy images in floating point to bytes."] = "round",
    name: Annotated[str | None, "The model's name in tables."] = None,
    num_images: Annotated[int | None, "Training images that the model had seen, for curves over training."] = None,
    batch_size: Annotated[int, "Images in one forward."] = 32,
    cache: Annotated[Path | None, "Directory of images' features."] = None,
    device: Device = None,
) -> None:
    """Look for copies of training images, mirrored and zoomed ones too, by DINOv2 and SSCD; torchrun: on many GPUs.

    Example: tessera evaluate copies samples/ta_ia --training images --held-out images-val --out scores/copies
    """
    from tessera.config import UserError
    from tessera.devices import pick_device
    from tessera.evaluate.copies.evaluate import CopiesConfig, evaluate_copies
    from tessera.pretrained.features.dinov2 import load_dino
    from tessera.pretrained.features.sscd import load_sscd

    config = CopiesConfig(rounding=rounding, batch_size=batch_size)
    for directory in (samples, training, *([] if held_out is None else [held_out])):
        if not directory.is_dir():
            raise UserError(f"{directory}: there is no such directory")
    where = pick_device(device)
    network, second = load_dino(dinov2, where), None if sscd is None else load_sscd(sscd, where)
    if second is None:
        print("copies: by DINOv2 alone; --sscd adds SSCD, whose file of weights has to be given", file=sys.stderr)
    more = {"held_out": held_out, "prompts": prompts, "name": name, "num_images": num_images, "cache": cache}
    if evaluate_copies(out, samples, training, network, config, sscd=second, **more):
        say_scores(out)


def report(
    paths: Annotated[tuple[Path, ...], "positional", "A folder made by run, or directories made by evaluate."],
    out: Annotated[Path | None, "Directory to make; for a working folder, its report/ by default."] = None,
    samples: Annotated[tuple[Path, ...], "The images of each of the scores, in the same order, for a gallery."] = (),
    force: Annotated[bool, "Put numbers of different protocols in one table."] = False,
    seeds: Annotated[int, "Trainings of each arm by other seeds: so many scores in a row are one arm's."] = 1,
) -> None:
    """Write one self-contained HTML page: about a working folder, or about scores, with the paper's tables.

    Example: tessera report out/miniature
    """
    from tessera.config import UserError
    from tessera.report import run_page, scores_page
    from tessera.run import budget_that_draws

    if not paths:
        raise UserError("report: give a folder made by run, or directories of scores")
    other = next((path for path in paths if not scores_page.is_scores(path)), None)
    if other is None:
        if out is None:
            raise UserError("report: give --out, a directory for the page about these scores")
        scores_page.report_scores(out, paths, samples, force, seeds)
        say_report(out / "index.html")
        return
    if not other.exists():
        raise UserError(f"{other}: there is no such directory or file")
    inside = [str(path.parent) for path in sorted(other.glob("*/scores.json"))]
    if inside:
        raise UserError(f"{other}: has no scores.json itself; give what lies in it, as {' '.join(inside[:3])}")
    if len(paths) > 1 or samples or force or seeds != 1:
        raise UserError(f"{other}: has no scores.json; give directories made by `tessera evaluate`, or one made by run")
    if out is None and run_page.unfinished_runs(other):
        say_report(run_page.report_so_far(other), "Of an unfinished run:")
        return
    out = out or other / "report"
    run_page.report(out, other, budget=budget_that_draws())
    say_report(out / "index.html")


def figure_tau(
    out: Annotated[Path, "Directory to make: tau.png, tau.md, tau.json."],
    images: Annotated[Path | None, "Folder of images or of class folders; renders of the miniature by default."] = None,
    schedule: str = "linear",
    codec: Annotated[str, "What the noise is added to: pixel-unshuffle:N, or a VAE."] = "pixel-unshuffle:4",
    scale: Annotated[float, "What the training multiplies its latents by."] = 1.0,
    size: Annotated[int, "Side of the images in pixels."] = 64,
    pictures: Annotated[int, "Number of images judged."] = 64,
    seed: Annotated[int, "Seed of placements and noise."] = 0,
    learned: Annotated[Path | None, "Directory made by tau: show its answers next to the test's."] = None,
) -> None:
    """Draw Figure 7: CutMix images at rising noise, and how well their seams can still be detected, to choose tau by.

    Example: tessera figure tau --images imagenet/val --schedule linear --codec stabilityai/sd-vae-ft-mse --size 256 --scale 0.18215 --out tau

    Args:
        schedule: Noise schedule: linear, cosine, sigmoid, scaled_linear, ddpm_linear, flow, or FILE.py:FUNCTION.
    """  # noqa: E501
    from tessera.report import figure7

    config = figure7.TauConfig(schedule=schedule, codec=codec, scale=scale, size=size, num_images=pictures, seed=seed)
    figure7.tau(out, images, config, learned)
    say(out, (out / "tau.md").read_text(encoding="utf-8"))
