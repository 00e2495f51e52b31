"""evaluate questions: images to GenEval 2's Soft-TIFA, VQAScore, or a benchmark that is a table of questions.

answers/NNNNN.json    of each prompt, for every image the probability of the expected answer to every question
scores.json           their means: over questions (AM), over the images' geometric means (GM), by dimension and atoms

With `words` an answer counts 1 or 0 by what the judge says, and the numbers have other names.
"""

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tessera.config import UserError
from tessera.devices import pick_device, usual_defaults, world_size
from tessera.evaluate.intervals import paired_difference, share_number
from tessera.evaluate.samples import Samples, read_samples
from tessera.evaluate.scores import FILE, Number, Protocol, Scores, comparable, read_scores, write_scores
from tessera.files import sha256_file
from tessera.prompts.question_tables import Asked, PromptQuestions, read_question_table
from tessera.stages import open_stage, read_manifest
from tessera.workers import work_through

JUDGE = "Qwen/Qwen3-VL-8B-Instruct"
"""GenEval 2's judge."""
VQASCORE = "vqascore"
TITLES = {"geneval2": "GenEval 2", VQASCORE: "VQAScore"}
SOFT_TIFA = "{question} Answer in one word."
"""The prompt of GenEval 2, and of every table."""
WHOLE = 'Does this figure show "{question}"? Please answer yes or no.'
"""The prompt of VQAScore, about the prompt as a whole."""


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig:
    """The benchmark and its judge."""

    benchmark: str = "geneval2"
    """geneval2, vqascore, or a name for a table of one's own: lowercase letters, digits and hyphens."""
    backend: Literal["qwen-vl", "openai"] = "qwen-vl"
    """The judge: Qwen3-VL or Qwen2.5-VL, or any OpenAI-compatible server."""
    model: str | None = None
    """Its name on the Hub or the server, or a folder. None = `JUDGE`, of qwen-vl."""
    server: str | None = None
    """Address of the server, for openai. Not part of the manifest."""
    words: bool = False
    """Count the answers in words, for a server without log-probabilities."""

    def __post_init__(self):
        if not self.benchmark.replace("-", "").isalnum() or self.benchmark != self.benchmark.lower():
            raise UserError(f"benchmark: {self.benchmark!r} must be a name of lowercase letters, digits and hyphens")
        if self.benchmark in ("geneval", "dpg"):
            raise UserError(f"benchmark: {self.benchmark} has rules of its own; see tessera evaluate {self.benchmark}")
        if self.server is not None and self.backend != "openai":
            raise UserError(f"server: {self.backend} answers in this process; give --vqa openai, or leave --server out")


@usual_defaults
def evaluate_questions(
    out: Path,
    samples: Path,
    questions: Path | None,
    config: QuestionsConfig = QuestionsConfig(),
    *,
    short: Path | None = None,
    device: str | None = None,
) -> bool:
    """Ask the questions of a table about a directory made by `generate`; write `out`/scores.json.

    questions: the table (`tessera.prompts.question_tables`); None = VQAScore of the samples' own prompts. Questions are
    about the prompt as the table has it, whichever version was drawn. short: scores of images of the short versions by
    the same judge, prompts and seed; the difference goes into the facts. Resumable; under torchrun the ranks share the
    prompts. Return whether the scores are there. Raises UserError for images, a table or a judge that do not fit.
    """
    from tessera.pretrained import vqa

    out, folder = Path(out), read_samples(samples)
    whole = config.benchmark == VQASCORE
    items = _items(folder, questions, whole)
    if config.benchmark == "geneval2" and any(item.atoms is None for item in items):
        raise UserError(f"{questions}: is not of the form of geneval2_data.jsonl; give --benchmark another name")
    model = config.model or (JUDGE if config.backend == "qwen-vl" else None)
    judge = vqa.identity(config.backend, model)
    told = "".join(f"{item.text}\n" for item in items).encode()
    sha256 = hashlib.sha256(told).hexdigest() if questions is None else sha256_file(questions)
    template = WHOLE if whole else SOFT_TIFA
    protocol = folder.protocol(
        metric=config.benchmark,
        name=f"{config.benchmark}-1",
        encoder=f"{judge['backend']}:{judge['model']}",
        encoder_sha256=judge["sha256"],
        prompts_sha256=sha256,
        settings={
            "per_prompt": folder.per_prompt,
            "questions": sum(len(item.questions) for item in items),
            "template": template,
            "counted": "words" if config.words else "probabilities",
            "extended": folder.extended,
        },
    )
    facts = {"seed": read_manifest(folder.directory, "generate").config.get("seed")}
    if all(item.pair for item in items):
        facts["pairs"] = hashlib.sha256("".join(f"{item.pair}\n" for item in items).encode()).hexdigest()
    facts = {name: value for name, value in facts.items() if value is not None}
    earlier = None if short is None else _read_short(short, protocol, facts)
    described = {"benchmark": config.benchmark, "judge": judge, "questions_sha256": sha256, "words": config.words}
    described |= {"short": sha256_file(_file(short))} if short is not None else {}
    inputs = {"samples": folder.directory}
    stage = open_stage(out, stage="evaluate", config=described, inputs=inputs, shared=world_size() > 1)
    if stage.done:
        return True

    @functools.cache
    def network() -> Any:
        return vqa.load_vqa(config.backend, model, config.server, pick_device(device))

    def ask(prompt: int) -> list[list[float]]:
        asked = [(each.text, each.answer) for each in items[prompt].questions]
        once = list(dict.fromkeys(asked))
        texts, answers = [text for text, _ in once], [answer for _, answer in once]
        found = []
        for image in (folder.read(prompt, k) for k in range(folder.per_prompt)):
            if config.words:
                said = network().answer(image, texts, template)
                shares = [float(_says(words, answer)) for words, answer in zip(said, answers, strict=True)]
            else:
                shares = network().probabilities(image, [template.format(question=text) for text in texts], answers)
            known = dict(zip(once, shares, strict=True))
            found.append([known[pair] for pair in asked])
        return found

    log: list[list[list[float]]] | None = work_through(
        out / "answers", len(items), ask, description=f"{config.benchmark} {config.backend}"
    )
    if log is None:
        return False  # another rank completes it
    numbers, rows = tally(config, items, log, protocol)
    scores = Scores(
        kind="questions",
        name=out.name,
        numbers=tuple(numbers),
        items=tuple(folder.item(row["prompt"], row["sample"]) | row for row in rows),
        facts=facts,
    )
    if earlier is not None:
        compared = [number.metric for number in numbers if number.over is not None]
        found = {metric: paired_difference(earlier, scores, metric, force=True) for metric in compared}
        longer = {metric: asdict(interval) for metric, interval in found.items() if interval is not None}
        scores = replace(scores, facts={**scores.facts, "long_minus_short": longer})
    write_scores(out, scores)
    answers = folder.per_prompt * sum(len(item.questions) for item in items)
    counts = {"images": len(items) * folder.per_prompt, "prompts": len(items), "answers": answers}
    stage.finish(counts, facts={"metric": protocol.name}, joint=(FILE,))
    return True


def tally(
    config: QuestionsConfig,
    items: Sequence[PromptQuestions],
    log: Sequence[Sequence[Sequence[float]]],
    protocol: Protocol,
) -> tuple[list[Number], list[dict[str, Any]]]:
    """Return the numbers, with 95% intervals over prompts, and each image's row.

    log: of each prompt, of each image, each question's share 0..1. The mean over questions is that of the images' own
    means (as GenEval 2 has it); by dimension it is over all questions; geometric means by atoms are over their images.
    """
    name = f"{config.benchmark}-words" if config.words else config.benchmark
    title = f"{TITLES.get(config.benchmark, config.benchmark)}{' by words' * config.words}"
    mean, geometric = (name, "") if config.benchmark == VQASCORE else (f"{name}/am", f"{name}/gm")
    labels = {mean: title} if not geometric else {mean: f"{title} AM", geometric: f"{title} GM"}
    values: dict[str, list[tuple[int, float]]] = {metric: [] for metric in labels}
    rows = []
    for prompt, (item, images) in enumerate(zip(items, log, strict=True)):
        for k, shares in enumerate(images):
            own = {mean: math.fsum(shares) / len(shares)}
            if geometric:
                own[geometric] = geometric_mean(shares)
            for metric, value in own.items():
                values[metric].append((prompt, value))
            if geometric and item.atoms is not None:
                _add(values, labels, geometric, f"{item.atoms} atoms", prompt, own[geometric])
            for asked, share in zip(item.questions, shares, strict=True):
                # "Attribute - Color" counts for "Attribute" too.
                for dimension in dict.fromkeys((asked.dimension.partition(" - ")[0], asked.dimension)):
                    if dimension:
                        _add(values, labels, mean, dimension, prompt, share)
            worst = min(range(len(shares)), key=shares.__getitem__)
            reason = f"{shares[worst]:.2f}: {item.questions[worst].text} {item.questions[worst].answer}"
            rows.append({"prompt": prompt, "sample": k, "text": item.text, "values": own, "reason": reason})
    numbers = []
    for metric in sorted(values, key=lambda metric: (metric not in (mean, geometric), _by_number(metric))):
        prompts, own = zip(*values[metric])
        over = "items" if metric in (mean, geometric) else None
        number = share_number(metric, own, prompts, protocol, over=over)
        numbers.append(replace(number, label=labels[metric], direction="higher"))
    return numbers, rows


def geometric_mean(shares: Sequence[float]) -> float:
    """Return the geometric mean of numbers 0..1; 0 if one is."""
    return math.exp(math.fsum(map(math.log, shares)) / len(shares)) if all(shares) else 0.0


def _add(
    values: dict[str, list[tuple[int, float]]],
    labels: dict[str, str],
    metric: str,
    part: str,
    prompt: int,
    value: float,
) -> None:
    labels.setdefault(f"{metric}/{part}", f"{labels[metric]}, {part}")
    values.setdefault(f"{metric}/{part}", []).append((prompt, value))


def _by_number(metric: str) -> tuple[str, int, str]:
    head, _, part = metric.rpartition("/")
    number = (part.split() or [""])[0]
    return head, int(number) if number.isdecimal() else 0, part


def _says(words: str, answer: str) -> bool:
    from tessera.pretrained.vqa import spellings

    said = _parts(words)
    return any(bool(form) and said[: len(form)] == form for form in map(_parts, spellings(answer)))


def _parts(text: str) -> list[str]:
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()


def _items(samples: Samples, path: Path | None, whole: bool) -> list[PromptQuestions]:
    """Return the questions of each of the samples' prompts; every prompt of the table must have its images.

    whole: one question about the whole prompt, with each of its dimensions.
    """
    lines = [line["prompt"].strip() for line in samples.lines]
    if path is None:
        if not whole:
            raise UserError("questions: give --questions, a table of prompt, question, dimension and answer")
        return [PromptQuestions(text, (Asked(text, "yes", ""),)) for text in lines]
    table = {item.text: item for item in read_question_table(path, need_questions=not whole)}
    unknown = next((i for i, text in enumerate(lines) if text not in table), None)
    if unknown is not None:
        raise UserError(
            f"{samples.directory}: prompt {unknown:05d} is not of {path}; draw from --prompts questions:{path}"
        )
    if len(lines) != len(table) or len(set(lines)) != len(lines):
        absent = next((text for text in table if text not in lines), lines[0])
        raise UserError(
            f"{samples.directory}: has {len(lines)} prompts, {path} {len(table)}, and each needs its images once, for "
            f"example {absent[:60]!r}; draw from --prompts questions:{path}"
        )
    found = [table[text] for text in lines]
    return [_about_the_whole(item) for item in found] if whole else found


def _about_the_whole(item: PromptQuestions) -> PromptQuestions:
    dimensions = list(dict.fromkeys(asked.dimension for asked in item.questions))
    return replace(item, questions=tuple(Asked(item.text, "yes", dimension) for dimension in dimensions))


def _file(scores: Path) -> Path:
    return scores / FILE if Path(scores).is_dir() else Path(scores)


def _read_short(path: Path, protocol: Protocol, facts: Mapping[str, Any]) -> Scores:
    """Return scores of images of the short prompts. Raises UserError unless judge, prompts and seed are the same.

    Prompts that pair up by their numbers may have questions of their own.
    """
    short = read_scores(path)
    if short.kind != "questions" or not short.numbers:
        raise UserError(f"short: {path} holds no scores by questions; judge the short prompts' images by this verb")
    first = short.numbers[0]
    unlike = comparable(first, replace(first, protocol=replace(protocol, metric=first.protocol.metric)))
    paired = "pairs" in facts and facts["pairs"] == short.facts.get("pairs")
    may_differ = ("extender:", "settings.extended:", *(("prompts_sha256:", "settings.questions:") if paired else ()))
    if lines := [line for line in unlike if not line.startswith(may_differ)]:
        raise UserError(f"short: the protocols differ ({'; '.join(lines)}); judge both alike")
    if short.facts.get("seed") != (seed := facts.get("seed")):
        raise UserError(f"short: its images are of seed {short.facts.get('seed')}, these of {seed}; draw both with one")
    return short
