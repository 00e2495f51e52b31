"""evaluate dpg: images of DPG-Bench's prompts to the paper's Table 3, by a network that answers questions.

answers/NNNNN.json    of each prompt, what the network said to every question about every image: the answer log
scores.json           what the log gives, counted as the published script counts and as its paper says
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.config import UserError
from tessera.devices import pick_device, set_threads, world_size
from tessera.evaluate.dpg.questions import LEVEL_1, Item, read_questions
from tessera.evaluate.dpg.tally import Answers, Tally, fixed, official
from tessera.evaluate.intervals import MOST, share_number
from tessera.evaluate.samples import Samples, extender, read_samples
from tessera.evaluate.scores import Number, Protocol, Scores, library_versions, write_scores
from tessera.files import sha256_file
from tessera.images import read_rgb
from tessera.stages import open_stage
from tessera.workers import work_through

if TYPE_CHECKING:
    from tessera.pretrained.vqa import Backend, Vqa

METRIC = "dpg-1"
"""Name of the protocol; the judge's name belongs to it too."""
CHAT = ("qwen-vl", "openai")
"""Backends that are asked for a word, and may say anything."""


@dataclass(frozen=True, kw_only=True)
class DpgConfig:
    """The network to ask."""

    backend: "Backend" = "blip"
    """The kind of network; `mplug` is the reference."""
    model: str | None = None
    """Its name on the Hub or the server, or a folder. None = the backend's own."""
    server: str | None = None
    """Address of an OpenAI-compatible server, for `openai`. Not part of the manifest."""
    threads: int | None = None
    """CPU threads, at least 1. None = torch's own choice. Not part of the manifest: it only changes the speed."""

    def __post_init__(self):
        if self.server is not None and self.backend != "openai":
            raise UserError(f"server: {self.backend} answers in this process; give --vqa openai, or leave --server out")


def evaluate_dpg(
    out: Path, samples: Path, questions: Path, config: DpgConfig = DpgConfig(), *, device: str | None = None
) -> bool:
    """Ask the questions of DPG-Bench's csv about a directory made by `generate`; writes `out`/scores.json.

    Resumable; under torchrun the ranks share the prompts and the last one writes the scores. Return whether they
    are there. Raises UserError for missing or damaged images, a csv that is not well formed, a network
    that cannot be had, or one that does not say yes or no.
    """
    from tessera.pretrained.vqa import identity

    out, questions = Path(out), Path(questions)
    items = read_questions(questions)
    folder = read_samples(samples)
    order = _items_of(folder, items, questions)
    judge = identity(config.backend, config.model)
    described = {"metric": METRIC, "judge": judge, "questions_sha256": sha256_file(questions)}
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
    answers = {entry["item_id"]: [_yes_of(image) for image in entry["images"]] for entry in log}
    said = [said for entry in log for image in entry["images"] for said in image.values()]
    tallies = {name: count(order, answers) for name, count in _COUNTS.items()}
    protocol = _protocol(folder, items, judge, sha256_file(questions))
    scores = Scores(
        kind="dpg",
        name=out.name,
        numbers=tuple(number for name, tally in tallies.items() for number in numbers(name, tally, protocol)),
        items=tuple(_items(folder, order, answers, tallies)),
        facts={"unclear": sum(verdict(text) is None for text in said) / len(said)},
    )
    write_scores(out, scores)
    counts = {"images": len(order) * folder.per_prompt, "prompts": len(order), "answers": len(said)}
    stage.finish(counts, facts={"metric": METRIC})
    return True


_COUNTS = {"official": official, "fixed": fixed}


def verdict(text: str) -> bool | None:
    """Return whether an answer says yes or no, by its first word; None if neither."""
    word = "".join(letter if letter.isalpha() else " " for letter in text.lower()).split()[:1]
    return {"yes": True, "no": False}.get(word[0]) if word else None


def numbers(count: str, tally: Tally, protocol: Protocol) -> list[Number]:
    """Return dpg/COUNT/overall, dpg/COUNT/LEVEL 1, dpg/COUNT/level 2/LEVEL 2: percent with 95% intervals over
    prompts."""
    overall = [(item, share) for item, shares in tally.images.items() for share in shares]
    level_1 = tally.level_1()
    names = [*(name for name in LEVEL_1 if name in level_1), *sorted(level_1.keys() - set(LEVEL_1))]
    values = {"overall": overall} | {name: level_1[name] for name in names}
    values |= {f"level 2/{name}": tally.categories[name] for name in sorted(tally.categories)}
    protocol = replace(protocol, settings={**protocol.settings, "count": count})
    return [
        share_number(
            f"dpg/{count}/{name}",
            [100 * value for _, value in own],
            [item for item, _ in own],
            protocol,
            most=MOST["dpg"],
            over="items" if name == "overall" else None,
        )
        for name, own in values.items()
        if own
    ]


def _items(
    samples: Samples, order: Sequence[Item], answers: Answers, tallies: Mapping[str, Tally]
) -> Iterator[dict[str, Any]]:
    """Yield every image with what it scored, in percent, and the questions that it failed."""
    for prompt, item in enumerate(order):
        for k, image in enumerate(answers[item.id]):
            shares = {f"dpg/{count}/overall": tally.images.get(item.id) for count, tally in tallies.items()}
            failed = [question.text for question in item.questions if not image[question.number]]
            yield {
                "prompt": prompt,
                "sample": k,
                "file": samples.image(prompt, k).relative_to(samples.directory).as_posix(),
                "text": item.text,
                "values": {metric: 100 * share[k] for metric, share in shares.items() if share is not None},
                "reason": f"no: {' '.join(failed)}" if failed else "yes to every question",
            }


class _Asker:
    """The network, loaded when the first image asks for it."""

    def __init__(self, config: DpgConfig, device: str | None):
        self.config, self.device = config, device
        self.vqa: Vqa | None = None

    def answers(self, samples: Samples, prompt: int, item: Item) -> dict[str, Any]:
        """Return what the network says to each question about each image of a prompt."""
        if self.vqa is None:
            from tessera.pretrained import vqa

            config = self.config
            self.vqa = vqa.load_vqa(config.backend, config.model, config.server, pick_device(self.device))
        texts = [question.text for question in item.questions]
        images = []
        for k in range(samples.per_prompt):
            said = self.vqa.answer(read_rgb(samples.image(prompt, k), fix="generate it again"), texts)
            images.append({str(question.number): text for question, text in zip(item.questions, said, strict=True)})
        unclear = [text for image in images for text in image.values() if verdict(text) is None]
        if self.config.backend in CHAT and len(unclear) > len(images) * len(texts) / 2:
            raise UserError(
                f"{self.config.backend}: answers neither yes nor no to {len(unclear)} of {len(images) * len(texts)} "
                f"questions of {item.id}, for example {unclear[0][:60]!r}; choose another model (what is done is kept)"
            )
        return {"item_id": item.id, "prompt": prompt, "images": images}


def _yes_of(image: Mapping[str, str]) -> dict[int, bool]:
    return {int(number): verdict(text) is True for number, text in image.items()}


def _items_of(samples: Samples, items: Sequence[Item], questions: Path) -> list[Item]:
    """Return the item of each prompt, by "item_id" of its line, else by its text; every item must have its images."""
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
            f"{samples.directory}: {len(missing)} of {len(items)} items of {questions} have no images{first}, and "
            f"{len(order)} prompts have; draw --prompts dpg:{questions}"
        )
    return order


def _protocol(samples: Samples, items: Sequence[Item], judge: Mapping[str, str | None], questions: str) -> Protocol:
    return Protocol(
        metric="dpg",
        name=METRIC,
        encoder=f"{judge['backend']}:{judge['model']}",
        encoder_sha256=judge["sha256"],
        images=len(samples.lines) * samples.per_prompt,
        prompts_sha256=questions,
        extender=extender(samples),
        settings={"per_prompt": samples.per_prompt, "questions": sum(len(item.questions) for item in items)},
        versions=library_versions(),
    )
