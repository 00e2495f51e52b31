"""The web page, made of gradio's components; its work is `studio`'s, `browse`'s and `extender`'s."""

import html
import secrets
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import themes

from tessera.demo.browse import ALL, ORDERS, PAGE, Browser, show_runs
from tessera.demo.drawing import MAX_COUNT, MAX_PROMPT, MAX_SEED, MAX_STEPS
from tessera.demo.extender import PromptExtender
from tessera.demo.near import NearImages
from tessera.demo.studio import GALLERY, Drawn, Studio, error_notice, status
from tessera.diffusion.sampler import SAMPLERS
from tessera.prompts.read import load_prompts, read_prompts
from tessera.weights.export import CaptionsSeen

_HOUR = 3600
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def make_page(studio: Studio, workspace: Path | None, extender: PromptExtender) -> gr.Blocks:
    """Build the page over the models of `studio` and the working folder."""
    with gr.Blocks(title="tessera", analytics_enabled=False, delete_cache=(_HOUR // 6, _HOUR)) as page:
        names = html.escape(", ".join(studio.drawers))
        gr.HTML(f'<header class="top"><h1>tessera</h1><p dir="auto">{names}</p></header>')
        with gr.Tabs():
            with gr.Tab("Draw"):
                near = NearImages(workspace) if workspace is not None else None
                near = near if near is not None and near.rows else None
                _draw_tab(page, studio, _examples(workspace, studio.captions), extender, near)
            with gr.Tab("Data"):
                _data_tab(page, workspace)
            with gr.Tab("Runs"):
                _runs_tab(page, workspace)
    page.queue(max_size=64, default_concurrency_limit=2)  # any requests; the drawings wait in the studio's line
    return page


def theme_and_style() -> dict[str, Any]:
    """Return theme and style for `launch`: the system's fonts, nothing from the network."""
    fonts = ["system-ui", "sans-serif"]
    css = resources.files("tessera").joinpath("assets", "demo.css").read_text(encoding="utf-8")
    theme = themes.Default(primary_hue="orange", font=fonts, font_mono=["ui-monospace", "monospace"]).set(
        button_primary_background_fill="*primary_700",  # white on it can be read
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
    )
    return {"theme": theme, "css": css}


def _examples(workspace: Path | None, seen: CaptionsSeen | None) -> list[str]:
    """Return prompts to try: captions that the model's training held out, short and long; without any the first of each
    task of a run's own prompts. Then the paper's, where the model knows words beyond its captions'."""
    found: dict[str, str] = {}
    if seen is not None and seen.examples:
        ordered = sorted(seen.examples, key=len)
        pairs = zip(ordered[: len(ordered) // 2 + 1], reversed(ordered))
        found = {text: text for pair in pairs for text in pair}
    path = workspace / "prompts" / "prompts.jsonl" if workspace else None
    if not found and path is not None and path.is_file():
        for metadata, text in read_prompts(path):
            found.setdefault(metadata.get("tag", text), metadata.get("extended", {}).get("text", text))
    paper = [text for name in ("figure4", "teaser") for _, text in load_prompts(name).rows]
    if seen is not None and seen.vocabulary:
        paper = []
    return [*list(found.values())[:8], *paper]


def _safely(work: Callable[[], str]) -> str:
    try:
        return work()
    except Exception as error:
        return error_notice(error)


def _number(name: str, value: float, label: str, info: str, step: float = 1) -> gr.Number:
    return gr.Number(value=value, label=label, info=info, step=step, min_width=90, elem_id=name)


def _draw_tab(
    page: gr.Blocks, studio: Studio, examples: Sequence[str], extender: PromptExtender, near: NearImages | None
) -> None:
    info = next(iter(studio.drawers.values())).pipeline.info
    saved = gr.State([], time_to_live=_HOUR)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            prompt = gr.Textbox(
                label="Prompt",
                placeholder="What to draw; long descriptions fit models of long captions best",
                lines=4,
                max_lines=12,
                max_length=MAX_PROMPT,
                autofocus=True,
                elem_id="prompt",
            )
            extend = gr.Button("Extend my prompt", size="sm", elem_id="extend")
            names = studio.choices
            model = gr.Radio(names, value=names[0], label="Model", visible=len(names) > 1, elem_id="model")
            with gr.Row(elem_id="numbers"):
                guidance = _number("guidance", info.guidance_scale, "Guidance", "1 = off", step=0.1)
                steps = _number("steps", info.sampling_steps, "Steps", f"1 to {MAX_STEPS}")
                count = _number("count", 4, "Images", f"1 to {MAX_COUNT}")
                seed = _number("seed", 0, "Seed", "of the noise")
            fresh = gr.Button("New seed", size="sm", elem_id="fresh")
            with gr.Accordion("More settings", open=False, elem_id="more"):
                negative = gr.Textbox(
                    value="",
                    label="Negative prompt",
                    info="What guidance leads away from; nothing as in training",
                    max_length=MAX_PROMPT,
                    elem_id="negative",
                )
                low, high = info.guidance_interval or (0.0, 1.0)
                with gr.Row():
                    sampler = gr.Dropdown(
                        list(SAMPLERS), value="ddim", label="Sampler", min_width=90, elem_id="sampler"
                    )
                    since = _number("since", low, "Guidance from", "t, 0 = clean", step=0.05)
                    until = _number("until", high, "Guidance to", "t, 1 = noise", step=0.05)
                nearest = gr.Checkbox(
                    label="Nearest training images",
                    info="By their pixels, below what was drawn",
                    visible=near is not None,
                    elem_id="nearest",
                )
            with gr.Row():
                draw = gr.Button("Draw", variant="primary", elem_id="draw")
                stop = gr.Button("Stop", elem_id="stop")
        with gr.Column(scale=6, min_width=320):
            news = gr.HTML(elem_id="status", padding=False)
            preview = gr.HTML('<p class="hint">Images appear here as they are drawn.</p>', elem_id="preview")
    gr.Examples(
        [[text] for text in examples],
        [prompt],
        label="Prompts to try",
        example_labels=[text if len(text) <= 70 else f"{text[:69]}\u2026" for text in examples],
        examples_per_page=8,
        api_visibility="private",
    )
    gallery = gr.Gallery(
        label="Drawn so far; choose one for its settings and a PNG that holds them",
        columns=6,
        object_fit="contain",
        format="png",
        buttons=["download", "fullscreen"],
        interactive=False,
        elem_id="gallery",
    )
    settings = gr.HTML(elem_id="settings", padding=False)
    chosen = gr.State(None)
    again = gr.Button("Use these settings", size="sm", visible=False, elem_id="again")

    def on_draw(
        prompt,
        guidance,
        steps,
        seed,
        count,
        model,
        negative,
        sampler,
        since,
        until,
        nearest,
        saved,
        request: gr.Request,
    ):
        asked = {"prompt": prompt, "guidance_scale": guidance, "steps": steps, "seed": seed, "count": count}
        asked |= {"negative_prompt": negative or "", "sampler": sampler, "guidance_from": since, "guidance_to": until}
        below = near.markup if near is not None and nearest else None
        for shown in studio.draw(str(request.session_hash), model, near=below, **asked):
            if not shown.new:
                yield shown.status, shown.preview, gr.skip(), gr.skip()
                continue
            saved = [*reversed(shown.new), *saved][:GALLERY]
            yield shown.status, shown.preview, saved, [(item.path, item.caption) for item in saved]

    fields = [prompt, guidance, steps, seed, count, model, negative, sampler, since, until]
    gr.on(
        [draw.click, prompt.submit],
        on_draw,
        [*fields, nearest, saved],
        [news, preview, saved, gallery],
        api_name="draw",
        show_progress="hidden",
        concurrency_limit=None,  # they wait in the studio's line, where they are told how long it is, and can leave
        trigger_mode="once",
    )

    def on_stop(request: gr.Request):
        studio.stop(str(request.session_hash))

    stop.click(on_stop, queue=False, **_QUIET)
    page.unload(on_stop)
    fresh.click(lambda: secrets.randbelow(MAX_SEED + 1), None, seed, queue=False, api_visibility="private")

    def on_extend(prompt, seed):
        yield gr.skip(), status("Extending the prompt\u2026")
        try:
            of = int(seed) if isinstance(seed, int | float) and 0 <= seed <= MAX_SEED else 0
            prompt, made_by = extender.extend(str(prompt or ""), of)
            yield prompt, status(f"Extended by {made_by}.")
        except Exception as error:
            yield gr.skip(), error_notice(error)

    extend.click(
        on_extend, [prompt, seed], [prompt, news], show_progress="hidden", concurrency_limit=1, api_name="extend"
    )

    def on_select(saved: list[Drawn], event: gr.SelectData):
        number = event.index if isinstance(event.index, int) else -1
        if not 0 <= number < len(saved):
            return "", None, gr.update(visible=False)
        settings = saved[number].settings
        rows = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td dir="auto">{html.escape(str(value))}</td></tr>'
            for name, value in settings.items()
        )
        return f'<table class="settings">{rows}</table>', settings, gr.update(visible=True)

    gallery.select(on_select, saved, [settings, chosen, again], **_QUIET)

    def on_again(chosen: dict[str, Any] | None):
        names = ("prompt", "guidance_scale", "steps", "seed", "count", "model")
        names += ("negative_prompt", "sampler", "guidance_from", "guidance_to")
        return [chosen[name] if chosen else gr.skip() for name in names]

    again.click(on_again, chosen, fields, **_QUIET)


def _data_tab(page: gr.Blocks, workspace: Path | None) -> None:
    browser = Browser(workspace) if workspace is not None else None
    if browser is None or not browser.captions:
        gr.HTML('<p class="hint">There are no curated data here; name their working folder: --workspace DIR.</p>')
        return
    with gr.Row():
        words = gr.Textbox(label="Search by word", placeholder="red circle", elem_id="words")
        names = gr.Dropdown(list(browser.captions), label="Set", elem_id="set")
        classes = gr.Dropdown([ALL, *browser.classes], value=ALL, label="Class", elem_id="class")
        number = gr.Number(value=1, label="Page", minimum=1, step=1, precision=0, elem_id="page")
        order = gr.Dropdown(list(ORDERS), value=ORDERS[0], label="Order", elem_id="order")
    found = gr.HTML(elem_id="found", padding=False)

    def search(words, name, class_name, number, order) -> str:
        def work() -> str:
            entries = browser.find(str(name), str(words or "")[:1000], str(class_name), str(order))
            pages = max(1, -(-len(entries) // PAGE))
            shown = min(max(int(number or 1), 1), pages)
            part = entries[(shown - 1) * PAGE : shown * PAGE]
            return status(f"{len(entries):,} found, page {shown} of {pages}") + browser.cards(part)

        return _safely(work)

    def search_anew(words, name, class_name, _, order) -> tuple[int, str]:
        return 1, search(words, name, class_name, 1, order)

    asked = [words, names, classes, number, order]
    for component in (words, names, classes, order):  # a new search starts at its first page
        component.change(search_anew, asked, [number, found], trigger_mode="always_last", **_QUIET)
    number.input(search, asked, found, **_QUIET)
    page.load(search, asked, found, **_QUIET)


def _runs_tab(page: gr.Blocks, workspace: Path | None) -> None:
    if workspace is None:
        gr.HTML('<p class="hint">There are no runs here; name their working folder: --workspace DIR.</p>')
        return
    refresh = gr.Button("Read again", size="sm", elem_id="refresh")
    shown = gr.HTML(elem_id="runs", padding=False)
    for event in (page.load, refresh.click):
        event(lambda: _safely(lambda: show_runs(workspace)), None, shown, api_visibility="private")
