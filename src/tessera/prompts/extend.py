"""extend-prompts: short prompts to long ones in the style of the training captions (paper section 4.1).

The paper extends GenEval's prompts by Llama-3.1 and publishes neither the instruction nor the texts. Here each prompt
stores its extender, template, seed and text; its other metadata are those of the original.

prompts.jsonl       the lines, each with "extended": {"text", "extender", "template", "seed"}
texts/NNNNN.json    the text of each prompt, while the work lasts and after
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tessera.config import UserError, check_ranges
from tessera.devices import pick_device, world_size
from tessera.files import atomic_path
from tessera.pretrained.answers import RETRIES, NoCaption, caption_of
from tessera.prompts.read import load_prompts
from tessera.randomness import address, philox
from tessera.stages import open_stage
from tessera.workers import work_through

FILE = "prompts.jsonl"
RULES = "tessera-rules-1"
"""Name of the rules below; a change to them changes it."""
TEMPLATE = (
    "Write one detailed caption, of about 100 words in plain sentences, for a picture that shows exactly this: "
    '"{prompt}". Keep every object, its number, its colour and its place as they are said there; describe them, the '
    "background, the light and the mood, and add no other object of a named kind. Answer with the caption alone."
)
MAX_TOKENS = 256
MAX_CHARACTERS = 4000
_NOUN_PREFIX = "a photo of "
# The rules: {what} is the prompt without "a photo of". No word names an object or a color that a judge looks for.
_OPENINGS = (
    "The image depicts {what}, shown clearly and in full.",
    "This is a photograph of {what}, captured in sharp detail.",
    "The image features {what} as its main subject.",
    "The photograph shows {what}, placed in the centre of attention.",
)
_BACKGROUNDS = (
    "The background is plain and softly blurred, which keeps the attention on the subject.",
    "The setting is simple and uncluttered, with an even surface and a quiet backdrop.",
    "Behind the subject lies an open outdoor scene, out of focus and without distractions.",
    "The surroundings are those of a calm, tidy interior with nothing else in view.",
)
_LIGHTS = (
    "Soft, natural light falls evenly across the scene and brings out textures and edges.",
    "The lighting is bright and diffuse, with gentle shadows that give a sense of depth.",
    "Warm light from one side models the shapes and casts a faint shadow on the ground.",
    "Clear daylight shows every detail, and the contrast is moderate.",
)
_STYLES = (
    "The style of the image is realistic, with a balanced composition and an eye-level view.",
    "The composition is straightforward, and the overall mood is calm and inviting.",
    "The picture has the look of a professional photograph, neat and carefully framed.",
    "There are no texts or marks in the image, and nothing is cut off at its borders.",
)

Extender = Literal["llm", "rules"]


@dataclass(frozen=True, kw_only=True)
class ExtendConfig:
    """The extender of prompts."""

    extender: Extender = "llm"
    """A language model, or rules that need none."""
    model: str | None = None
    """For `llm`: of the Hub, a folder, or by the server's name. None = Llama-3.1 8B Instruct."""
    server: str | None = None
    """For `llm`: address of an OpenAI-compatible server. None = transformers in this process. Not in the manifest."""
    seed: int = 0
    """Each text is a function of (seed, prompt), whatever the other prompts are."""

    def __post_init__(self):
        check_ranges(self, seed="[0, 2**64)")
        if self.extender == "rules" and (self.model or self.server):
            raise UserError("extender: rules need no model and no server; leave them out")
        if self.server and not self.model:
            raise UserError("model: the extender needs the model's name on the server")


def extend_prompts(
    out: Path, prompts: str | Path, config: ExtendConfig = ExtendConfig(), *, device: str | None = None
) -> bool:
    """Write `out`/prompts.jsonl for `prompts`, whatever `load_prompts` reads: "geneval", a .jsonl file, plain text.

    Resumes a stopped call; under torchrun the ranks share the prompts and the last one writes the file. Returns True
    once it is there. Raises UserError for a bad file, a model that cannot be had, or one that writes nothing.
    """
    out = Path(out)
    own = ("extended", "text")  # of an earlier extension or drawing
    lines = [{k: v for k, v in metadata.items() if k not in own} for metadata, _ in load_prompts(prompts).rows]
    if not all(line["prompt"].strip() for line in lines):
        raise UserError(f"{prompts}: has an empty prompt, of which there is nothing to extend; remove it")
    name, template = RULES, RULES
    if config.extender == "llm":
        from tessera.pretrained.llm import writer_id

        name, template = writer_id(config.model, config.server), TEMPLATE
    described = {
        "extender": name,
        "template": template,
        "seed": config.seed,
        "prompts": [len(lines), address(*(json.dumps(line, sort_keys=True) for line in lines))],
    }
    stage = open_stage(out, stage="extend-prompts", config=described, shared=world_size() > 1)
    if stage.done:
        return True
    extend = load_extender(config, device)
    texts = work_through(
        out / "texts", len(lines), lambda i: extend(lines[i]["prompt"], config.seed), description="extend"
    )
    if texts is None:
        return False  # another rank completes it
    with atomic_path(out / FILE) as temporary:
        facts = {"extender": name, "template": template, "seed": config.seed}
        rows = [{**line, "extended": {"text": text, **facts}} for line, text in zip(lines, texts)]
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8", newline="\n")
    stage.finish({"prompts": len(lines)})
    return True


def extend_by_rules(prompt: str, seed: int) -> str:
    """Return the prompt in a sentence, then one each about background, light and style, drawn at (seed, prompt)."""
    rng = philox(seed, "extend", address(prompt))
    what = prompt.strip().rstrip(".").removeprefix(_NOUN_PREFIX)
    opening, *rest = [str(rng.choice(group)) for group in (_OPENINGS, _BACKGROUNDS, _LIGHTS, _STYLES)]
    return " ".join([opening.replace("{what}", what), *rest])


def tidy(text: str, cut: bool = False) -> str:
    """Return the caption in an answer (`caption_of`) as one line. Raises NoCaption, also for a far too long one."""
    line = " ".join((caption_of(text, cut).text or "").split())
    if not any(letter.isalpha() for letter in line) or len(line) > MAX_CHARACTERS:
        raise NoCaption(f"it has no letters, or over {MAX_CHARACTERS} characters")
    return line


def load_extender(config: ExtendConfig, device: str | None = None) -> Callable[[str, int], str]:
    """Return the function (prompt, seed) -> long form. Raises UserError if the model cannot be had."""
    if config.extender == "rules":
        return extend_by_rules
    from tessera.pretrained.llm import load_writer

    writer = load_writer(config.model, config.server, pick_device(device))

    def extend(prompt: str, seed: int) -> str:
        text, reason = "", ""
        for attempt in range(1 + RETRIES):
            own = address(seed, "extend", prompt, *([attempt] if attempt else []))
            text, cut = writer(TEMPLATE.replace("{prompt}", prompt), own, MAX_TOKENS)
            try:
                return tidy(text, cut)
            except NoCaption as error:
                reason = str(error)
        raise UserError(
            f"the extender wrote {len(text)} characters for {prompt!r} ({' '.join(text.split())[:60]!r}), which is no"
            f" caption: {reason}; choose another model (what is done is kept)"
        )

    return extend
