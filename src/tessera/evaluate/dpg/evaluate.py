"""evaluate dpg: images of DPG-Bench's prompts to the paper's Table 3, by a network that answers questions.

answers/NNNNN.json    of each prompt, what the network said to every question about every image: the answer log
scores.json           what the log gives, counted as the published script counts and as its paper says
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.config import UserError
from tessera.devices import pick_device, usual_defaults, world_size
from tessera.evaluate.dpg.questions import LEVEL_1, Item, read_questions
from tessera.evaluate.dpg.tally import Answers, Tally, fixed, official
from tessera.evaluate.intervals import MOST, share_number
from tessera.evaluate.samples import Samples, read_samples
from tessera.evaluate.scores import FILE, Number, Protocol, Scores, write_scores
from tessera.files import sha256_file
from tessera.stages import open_stage
from tessera.workers import work_through

if TYPE_CHECKING:
    from tessera.pretrained.vqa import Backend

METRIC = "dpg-2"
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

    def __post_init__(self):
        if self.server is not None and self.backend != "openai":
            raise UserError(f"server: {self.backend} answers in this process; give --vqa openai, or leave --server out")


@usual_defaults
def evaluate_dpg(
    out: Path, samples: Path, questions: Path, config: DpgConfig = DpgConfig(), *, device: str | None = None
) -> bool:
    """Ask the questions of DPG-Bench's csv about a directory made by `generate`; write `out`/scores.json.

    Resumable; under torchrun the ranks share the prompts and the last one writes the scores. Return whether they
    are there. Raises UserError for missing or damaged images, a csv that is not well formed, a network
    that cannot be had, or one that does not say yes or no.
    """
    from tessera.pretrained import vqa

    out, folder, items = Path(out), read_samples(samples), read_questions(Path(questions))
    order = _items_of(folder, items, Path(questions))
    judge = vqa.identity(config.backend, config.model)
    described = {"metric": METRIC, "judge": judge, "questions_sha256": sha256_file(questions)}
    inputs = {"samples": folder.directory}
    stage = open_stage(out, stage="evaluate", config=described, inputs=inputs, shared=world_size() > 1)
    if stage.done:
        return True

    @functools.cache
    def network() -> vqa.Vqa:
        return vqa.load_vqa(config.backend, config.model, config.server, pick_device(device))

    def ask(prompt: int) -> dict[str, Any]:
        texts = {str(question.number): question.text for question in order[prompt].questions}
        said = [network().answer(folder.read(prompt, k), [*texts.values()]) for k in range(folder.per_prompt)]
        unclear = [text for image in said for text in image if verdict(text) is None]
        if config.backend in CHAT and len(unclear) > len(said) * len(texts) / 2:
            raise UserError(
                f"{config.backend}: answers neither yes nor no to {len(unclear)} of {len(said) * len(texts)} questions "
                f"of {order[prompt].id}, for example {unclear[0][:60]!r}; choose another model (what is done is kept)"
            )
        images = [dict(zip(texts, image, strict=True)) for image in said]
        return {"item_id": order[prompt].id, "prompt": prompt, "images": images}

    log = work_through(out / "answers", len(order), ask, description=f"dpg {config.backend}")
    if log is None:
        return False  # another rank completes it
    answers = {
        entry["item_id"]: [{int(n): verdict(text) is True for n, text in image.items()} for image in entry["images"]]
        for entry in log
    }
    said = [said for entry in log for image in entry["images"] for said in image.values()]
    tallies = {"official": official(order, answers), "fixed": fixed(order, answers)}
    protocol = folder.protocol(
        metric="dpg",
        name=METRIC,
        encoder=f"{judge['backend']}:{judge['model']}",
        encoder_sha256=judge["sha256"],
        prompts_sha256=described["questions_sha256"],
        settings={"per_prompt": folder.per_prompt, "questions": sum(len(item.questions) for item in items)},
    )
    facts: dict[str, Any] = {"unclear": sum(verdict(text) is None for text in said) / len(said)}
    if left_out := [item.id for item in order if item.id not in tallies["official"].images]:
        images = f"{len(left_out) * folder.per_prompt} of {len(order) * folder.per_prompt} images"
        facts["passed_over"] = f"{images} in the official count, as by the published script, first of {left_out[0]}"
    scores = Scores(
        kind="dpg",
        name=out.name,
        numbers=tuple(number for name, tally in tallies.items() for number in numbers(name, tally, protocol)),
        items=tuple(_items(folder, order, answers, tallies)),
        facts=facts,
    )
    write_scores(out, scores)
    counts = {"images": len(order) * folder.per_prompt, "prompts": len(order), "answers": len(said)}
    stage.finish(counts, facts={"metric": METRIC}, joint=(FILE,))
    return True


def verdict(text: str) -> bool | None:
    """Return whether an answer says yes or no, by its first word; None if neither."""
    word = "".join(letter if letter.isalpha() else " " for letter in text.lower()).split()[:1]
    return {"yes": True, "no": False}.get(word[0]) if word else None


def numbers(count: str, tally: Tally, protocol: Protocol) -> list[Number]:
    """Return dpg/COUNT/overall, /LEVEL 1 and /level 2/LEVEL 2: percent with 95% intervals over prompts."""
    overall = [(item, share) for item, shares in tally.images.items() for share in shares]
    level_1 = tally.level_1()
    names = [*(name for name in LEVEL_1 if name in level_1), *sorted(level_1.keys() - set(LEVEL_1))]
    values = {"overall": overall} | {name: level_1[name] for name in names}
    values |= {f"level 2/{name}": tally.categories[name] for name in sorted(tally.categories)}
    protocol = replace(protocol, settings={**protocol.settings, "count": count})
    found = []
    for name, own in values.items():
        if own:
            prompts, over = [item for item, _ in own], "items" if name == "overall" else None
            percent = [100 * value for _, value in own]
            found.append(share_number(f"dpg/{count}/{name}", percent, prompts, protocol, most=MOST["dpg"], over=over))
    return found


def _items(
    samples: Samples, order: Sequence[Item], answers: Answers, tallies: Mapping[str, Tally]
) -> Iterator[dict[str, Any]]:
    """Yield every image with what it scored, in percent, and the questions that it failed."""
    for prompt, item in enumerate(order):
        for k, image in enumerate(answers[item.id]):
            shares = {f"dpg/{count}/overall": tally.images.get(item.id) for count, tally in tallies.items()}
            failed = [question.text for question in item.questions if not image[question.number]]
            yield samples.item(prompt, k) | {
                "text": item.text,
                "values": {metric: 100 * share[k] for metric, share in shares.items() if share is not None},
                "reason": f"no: {' '.join(failed)}" if failed else "yes to every question",
            }


def _items_of(samples: Samples, items: Sequence[Item], questions: Path) -> list[Item]:
    """Return the item of each prompt, by "item_id" of its line, else by its text; every item must have its images."""
    by_id, by_text = {item.id: item for item in items}, {item.text.strip(): item for item in items}
    order = []
    for i, line in enumerate(samples.lines):
        item = by_id.get(line["item_id"]) if "item_id" in line else by_text.get(line["prompt"].strip())
        if item is None:
            raise UserError(f"{samples.directory}: prompt {i:05d} is not of {questions}; draw from --prompts dpg:FILE")
        order.append(item)
    missing = sorted({item.id for item in items} - {item.id for item in order})
    if missing or len(order) != len(items):
        first = f", the first is {missing[0]}" if missing else ""
        raise UserError(
            f"{samples.directory}: {len(missing)} of {len(items)} items of {questions} have no images{first}, and "
            f"{len(order)} prompts have; draw --prompts dpg:{questions}"
        )
    return order
