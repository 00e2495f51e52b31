"""The verbs that judge pictures, and the report."""

from pathlib import Path
from typing import Annotated, Literal

from tessera.cli.shown import say, say_report


def prompts(images: Annotated[Path, "positional"], out: Path, per_task: int = 20, seed: int = 0) -> None:
    """The judge's prompts over the miniature: GenEval's six tasks, short and extended.

    Example: tessera prompts images --out prompts

    Args:
        images: Directory made by collect from the miniature.
        out: Directory to make.
        per_task: Prompts of each task.
        seed: Seed of the draws.
    """
    from tessera.evaluate.prompts import PromptConfig
    from tessera.evaluate.prompts import prompts as prompts_all

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
    """Longer prompts in the style of the training captions (section 4.1), for generate --extended.

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
    from tessera.evaluate.extend import ExtendConfig
    from tessera.evaluate.extend import extend_prompts as extend_all

    if extend_all(out, prompts, ExtendConfig(extender=extender, model=model, server=server, seed=seed), device=device):
        say(out)


def miniature(samples: Annotated[Path, "positional"], out: Path) -> None:
    """Judges pictures of the miniature: six tasks, colours, seams, with intervals beside the judge's own accuracy.

    Example: tessera evaluate miniature samples/ta_ia --out scores/ta_ia

    Args:
        samples: Directory made by generate from the judge's prompts.
        out: Directory to make.
    """
    from tessera.evaluate.miniature import EvaluateConfig
    from tessera.evaluate.miniature import evaluate as evaluate_all

    evaluate_all(out, samples, EvaluateConfig())
    say(out)


def geneval(
    out: Path,
    detector: str,
    samples: Path | None = None,
    extended_samples: Path | None = None,
    clip: str = "openai/clip-vit-large-patch14",
    seed: int = 0,
    device: str | None = None,
) -> None:
    """GenEval of pictures of its prompts, original and extended side by side (Table 2); under torchrun, on many GPUs.

    Example: tessera evaluate geneval --samples samples/short --extended-samples samples/long --detector F --out scores

    Args:
        out: Directory to make; running again goes on where it stopped.
        detector: mmdetection's mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco .pth, or a folder of transformers.
        samples: Directory made by generate from --prompts geneval; 4 pictures of each prompt are usual.
        extended_samples: The same with --extended.
        clip: CLIP ViT-L/14 of the Hub or of a folder, which names the colours.
        seed: Seed of the intervals' bootstrap.
        device: cuda, mps or cpu; the best there is by default.
    """
    from tessera.evaluate.geneval_table import GenEvalConfig, evaluate_geneval, side_by_side

    config = GenEvalConfig(detector=detector, clip=clip, seed=seed)
    if evaluate_geneval(out, samples, config, extended=extended_samples, device=device):
        say(out)
        print(side_by_side(out))


def dpg(
    out: Path,
    samples: Path,
    questions: Path,
    vqa: Literal["blip", "qwen-vl", "openai", "mplug"] = "blip",
    vqa_model: str | None = None,
    server: str | None = None,
    seed: int = 0,
    device: str | None = None,
) -> None:
    """DPG-Bench of pictures of its prompts (Table 3), counted in both ways; under torchrun, on many GPUs.

    Example: tessera evaluate dpg --samples samples/dpg --questions dpg_bench.csv --vqa blip --out scores/dpg

    Args:
        out: Directory to make; running again goes on where it stopped.
        samples: Directory made by generate from --prompts dpg:FILE; 4 pictures of each prompt are usual.
        questions: DPG-Bench's dpg_bench.csv.
        vqa: Who answers: blip, qwen-vl, openai (any compatible server), or mplug, the reference (needs modelscope).
        vqa_model: A model of the Hub, a folder, or a name on the server; the backend's own by default.
        server: Address of the server, such as http://127.0.0.1:8000/v1; its key stands in OPENAI_API_KEY.
        seed: Seed of the intervals' bootstrap.
        device: cuda, mps or cpu; the best there is by default.
    """
    from tessera.evaluate.dpg import DpgConfig, evaluate_dpg

    config = DpgConfig(backend=vqa, model=vqa_model, server=server, seed=seed)
    if evaluate_dpg(out, samples, questions, config, device=device):
        say(out)


def report(workspace: Annotated[Path, "positional"], out: Path | None = None) -> None:
    """One self-contained HTML page about a working folder.

    Example: tessera report out/miniature

    Args:
        workspace: Folder made by run.
        out: Directory to make; WORKSPACE/report by default.
    """
    from tessera.evaluate.report import report as report_all

    report_all(out or workspace / "report", workspace)
    say_report((out or workspace / "report") / "index.html")
