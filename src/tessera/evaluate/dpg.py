"""evaluate dpg: pictures of DPG-Bench's prompts to the paper's Table 3, by a network that answers questions.

answers/NNNNN.json    of each prompt, what the network said to every question about every picture: the answer log
scores.json           what the log gives, counted as the published script counts and as its paper says
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tessera.config import UserError
from tessera.evaluate.dpg_questions import LEVEL_1, Item, read_questions
from tessera.evaluate.dpg_scores import Tally, fixed, official
from tessera.evaluate.samples import Samples, read_picture, read_samples, versions, work_through
from tessera.files import open_stage, sha256_file, write_json
from tessera.metrics import bootstrap
from tessera.runtime import pick_device, set_threads, world_size

if TYPE_CHECKING:
    from tessera.frozen.vqa import Backend, Vqa

FILE = "scores.json"
METRIC = "dpg-1"
"""Name of the protocol; the judge's name belongs to it too."""
CHAT = ("qwen-vl", "openai")
"""Backends that are asked for a word, and may say anything."""


@dataclass(frozen=True, kw_only=True)
class DpgConfig:
    """Whom to ask."""

    backend: "Backend" = "blip"
    """The kind of network; `mplug` is the reference."""
    model: str | None = None
    """Its name on the Hub or the server, or a folder. None = the backend's own."""
    server: str | None = None
    """Address of an OpenAI-compatible server, for `openai`. Not part of the manifest."""
    resamples: int = 1000
    """Bootstrap resamples for the intervals, at least 100."""
    seed: int = 0
    """Seed of the bootstrap."""
    threads: int | None = None
    """CPU threads, at least 1. None = torch's own choice. Not part of the manifest: it only changes the speed."""

    def __post_init__(self):
        if self.resamples < 100:
            raise UserError(f"resamples is {self.resamples}: give at least 100")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed is {self.seed}: give a number in [0, 2**64)")


def evaluate_dpg(
    out: Path, samples: Path, questions: Path, config: DpgConfig = DpgConfig(), *, device: str | None = None
) -> bool:
    """Asks the questions of DPG-Bench's csv about a directory made by `generate`; writes `out`/scores.json.

    Goes on where it stopped; under torchrun the ranks share the prompts and the last one writes the scores. Returns
    whether they are there. Raises UserError for missing or damaged pictures, a csv that is not well formed, a network
    that cannot be had, or one that does not say yes or no.
    """
    from tessera.frozen.vqa import identity

    out, questions = Path(out), Path(questions)
    items = read_questions(questions)
    folder = read_samples(samples)
    order = _items_of(folder, items, questions)
    judge = identity(config.backend, config.model)
    described = {
        "metric": METRIC,
        "judge": judge,
        "questions_sha256": sha256_file(questions),
        "resamples": config.resamples,
        "seed": config.seed,
    }
    shared = world_size() > 1
    stage = open_stage(out, stage="evaluate", config=described, inputs={"samples": folder.directory}, shared=shared)
    if stage.done:
        return True
    set_threads(config.threads)
    asked = _Asker(config, device)
    log = work_through(
        out / "answers", len(order), lambda i: asked.answers(folder, i, order[i]), description=f"dpg {config.backend}"
    )
    if log is None:
        return False  # another rank completes it
    answers = {entry["item_id"]: [_yes_of(picture) for picture in entry["pictures"]] for entry in log}
    said = [said for entry in log for picture in entry["pictures"] for said in picture.values()]
    scores = {
        "protocol": {**described, "metric": METRIC, **_protocol(folder, items, config)},
        "values": {name: table(count(order, answers), config) for name, count in _COUNTS.items()},
        "unclear": sum(verdict(text) is None for text in said) / len(said),
    }
    write_json(out / FILE, scores)
    counts = {"images": len(order) * folder.per_prompt, "prompts": len(order), "answers": len(said)}
    stage.finish(counts, facts={"metric": METRIC})
    return True


_COUNTS = {"official": official, "fixed": fixed}


def verdict(text: str) -> bool | None:
    """Whether an answer says yes or no, by its first word; None if neither."""
    word = "".join(letter if letter.isalpha() else " " for letter in text.lower()).split()[:1]
    return {"yes": True, "no": False}.get(word[0]) if word else None


def table(tally: Tally, config: DpgConfig) -> dict[str, Any]:
    """Overall, level 1 and level 2 in percent, each with a 95% interval over prompts and its counts."""
    overall = list(tally.prompts.items())
    level_1, level_2 = tally.level_1(), tally.categories
    names = [*(name for name in LEVEL_1 if name in level_1), *sorted(level_1.keys() - set(LEVEL_1))]
    return {
        "overall": _interval(overall, config) if overall else None,
        "level_1": {name: _interval(level_1[name], config) for name in names},
        "level_2": {name: _interval(level_2[name], config) for name in sorted(level_2)},
    }


def _interval(values: Sequence[tuple[str, float]], config: DpgConfig) -> dict[str, Any]:
    prompts = [name for name, _ in values]
    percent = np.array([100 * value for _, value in values])
    interval = bootstrap(percent, prompts, n=config.resamples, seed=config.seed)
    bounds = {"low": interval.low, "value": interval.value, "high": interval.high}
    return {**bounds, "n": len(values), "prompts": len(set(prompts))}


class _Asker:
    """The network, loaded when the first picture asks for it."""

    def __init__(self, config: DpgConfig, device: str | None):
        self.config, self.device = config, device
        self.vqa: Vqa | None = None

    def answers(self, samples: Samples, prompt: int, item: Item) -> dict[str, Any]:
        """What the network says to each question about each picture of a prompt."""
        if self.vqa is None:
            from tessera.frozen import vqa

            config = self.config
            self.vqa = vqa.load_vqa(config.backend, config.model, config.server, pick_device(self.device))
        texts = [question.text for question in item.questions]
        pictures = []
        for k in range(samples.per_prompt):
            said = self.vqa.answer(read_picture(samples.picture(prompt, k)), texts)
            pictures.append({str(question.number): text for question, text in zip(item.questions, said, strict=True)})
        unclear = [text for picture in pictures for text in picture.values() if verdict(text) is None]
        if self.config.backend in CHAT and len(unclear) > len(pictures) * len(texts) / 2:
            raise UserError(
                f"{self.config.backend}: answers neither yes nor no to {len(unclear)} of {len(pictures) * len(texts)} "
                f"questions of {item.id}, for example {unclear[0][:60]!r}; choose another model (what is done is kept)"
            )
        return {"item_id": item.id, "prompt": prompt, "pictures": pictures}


def _yes_of(picture: Mapping[str, str]) -> dict[int, bool]:
    return {int(number): verdict(text) is True for number, text in picture.items()}


def _items_of(samples: Samples, items: Sequence[Item], questions: Path) -> list[Item]:
    """The item of each prompt, by "item_id" of its line, else by its text; every item must have its pictures."""
    by_id, by_text = {item.id: item for item in items}, {item.text.strip(): item for item in items}
    order = []
    for i, line in enumerate(samples.lines):
        item = by_id.get(line["item_id"]) if "item_id" in line else by_text.get(line["prompt"].strip())
        if item is None:
            raise UserError(f"{samples.directory}: prompt {i:05d} is not of {questions}; draw from --prompts dpg:FILE")
        order.append(item)
    missing = [item.id for item in items if item.id not in {found.id for found in order}]
    if missing or len(order) != len(items):
        first = f", the first is {missing[0]}" if missing else ""
        raise UserError(
            f"{samples.directory}: {len(missing)} of {len(items)} items of {questions} have no pictures{first}, and "
            f"{len(order)} prompts have; draw --prompts dpg:{questions}"
        )
    return order


def _protocol(samples: Samples, items: Sequence[Item], config: DpgConfig) -> dict[str, Any]:
    return {
        "images": len(samples.lines) * samples.per_prompt,
        "prompts": len(samples.lines),
        "per_prompt": samples.per_prompt,
        "questions": sum(len(item.questions) for item in items),
        "interval": {"method": "95% bootstrap over prompts", "resamples": config.resamples, "seed": config.seed},
        "versions": versions(),
    }
