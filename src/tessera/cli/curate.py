"""Verbs from images to encoded records."""

from pathlib import Path
from typing import Annotated, Literal

from tessera.cli.output import say, say_files, say_this

EngineKind = Literal["here", "processes", "ray"]


def collect(
    source: Annotated[str, "positional"],
    out: Path,
    size: int | None = None,
    single_class: str | None = None,
    split: Literal["train", "val"] = "train",
    layout: str | None = None,
    class_names: Path | None = None,
    fast: bool = False,
    num_images: int = 8000,
    seed: int = 0,
) -> None:
    """Make square crops in class folders: of the miniature world, a folder of yours, or ImageNet as it comes.

    The layout is told from what is there: class folders, Kaggle's tree, the official tar of tars (read in place), the
    Hub's Parquet files, WebDataset tars.

    Example: tessera collect photos/ --out images --size 256

    Args:
        source: "miniature", a folder with a folder of images for each class, ImageNet's tree, tar or Parquet files.
        out: Directory to make.
        size: Side of the crops in pixels; 32 for the miniature, 256 for a folder by default.
        single_class: The class of a folder without class folders.
        split: The part of a set that has parts.
        layout: class-folders, imagenet-tree, imagenet-tar, webdataset or hub-parquet; FILE.py:NAME is one of yours. The
            one that is there by default.
        class_names: File that names the classes, such as LOC_synset_mapping.txt; without it one in the source.
        fast: Decode JPEG files near the crop's size: faster, and not quite the exact pixels.
        num_images: Images of the miniature.
        seed: Seed of the miniature.
    """
    from tessera.curate.collect.collect import MINIATURE, CollectConfig
    from tessera.curate.collect.collect import collect as collect_all
    from tessera.miniature import WorldConfig

    if source == MINIATURE:
        side = 32 if size is None else size
        world = WorldConfig(num_images=num_images, size=side, seed=seed)
        collect_all(out, CollectConfig(size=side, world=world))
    else:
        folder = Path(source)
        config = CollectConfig(
            source=folder.resolve().name,
            size=256 if size is None else size,
            single_class=single_class,
            split=split,
            layout=layout,
            fast=fast,
            class_names=str(class_names) if class_names else None,
        )
        collect_all(out, config, folder)
    say(out)


def augment(
    images: Annotated[Path, "positional"],
    out: Path,
    pattern: str = "all",
    half_view: Literal["aligned", "centre"] = "aligned",
    seed: int = 0,
    from_captions: str | None = None,
    write_images: bool = False,
) -> None:
    """Draw the CutMix recipe of a set: which images are mixed, and where (paper section 3.2).

    Example: tessera augment images --out recipe --pattern all

    Args:
        images: Directory made by collect.
        out: Directory to make.
        pattern: half, quarter, ninth, sixteenth, or all four in equal parts; crop mixes nothing, it enlarges a window;
            FILE.py:NAME is a pattern of yours.
        half_view: half shows the base's left (top) half with the partner's right (bottom) half, or the middle of both.
        seed: Seed of the draws.
        from_captions: Captions named base_partner_x0_y0_x1_y1, as published: the recipe is what their names say.
        write_images: Write the mixed images out too.
    """
    from tessera.curate.augment import AugmentConfig
    from tessera.curate.augment import augment as augment_all

    config = AugmentConfig(pattern=pattern, half_view=half_view, seed=seed, from_captions=from_captions)
    augment_all(out, images, config, write_images=write_images)
    say(out)


def caption(
    images: Annotated[Path, "positional"],
    out: Path,
    captioner: str = "aio",
    recipe: Path | None = None,
    file: str | None = None,
    seed: int = 0,
    model: str | None = None,
    server: str | None = None,
    concurrency: int = 32,
    device: str | None = None,
    engine: EngineKind = "here",
    workers: int | None = None,
    address: str | None = None,
    shard: str | None = None,
) -> None:
    """Write captions of a set, or of its CutMix images (paper section 3.1).

    Example: tessera caption images --out captions/plain --captioner scene

    Args:
        images: Directory made by collect.
        out: Directory to make.
        captioner: aio ("An image of <class-name>"), scene (the miniature's ground truth), import (a file), llava
            (LLaVA-NeXT on this machine), openai (any OpenAI-compatible server), or your own class, FILE.py:NAME.
        recipe: Directory made by augment: caption its mixed images.
        file: For import: csv, tsv, jsonl or parquet with columns key (or file_name) and text (or caption); a folder
            with metadata.csv or .jsonl, or .txt files next to the images; or OWNER/NAME on the Hugging Face Hub.
        seed: Seed of the phrasings.
        model: For llava, a repository or folder; for openai, the server's name of the model.
        server: For openai, the server's base URL, such as http://127.0.0.1:8000/v1.
        concurrency: For openai, questions asked at a time.
        device: For llava: cuda, mps, cpu, or in this process cuda:N; the best there is by default.
        engine: For llava, openai and your own class: in this process, in processes, or on a Ray cluster.
        workers: Processes or Ray actors; one for each GPU by default, without GPUs one for each core.
        address: Of the Ray cluster.
        shard: i/n: the i-th of n tasks of an array job; the last one to end completes the directory.
    """
    from tessera.curate.caption.caption import CaptionConfig
    from tessera.curate.caption.caption import caption as caption_all
    from tessera.workers import Engine, parse_part

    config = CaptionConfig(captioner=captioner, seed=seed, model=model)
    where = Engine(kind=engine, workers=workers, address=address, part=parse_part(shard))
    places = {"engine": where, "device": device, "server": server, "concurrency": concurrency}
    caption_all(out, images, config, recipe=recipe, captions_file=file, **places)
    _say_if_complete(out)


def export_captioner(
    out: Path,
    model: str = "llava-hf/llama3-llava-next-8b-hf",
) -> None:
    """Write a LLaVA-NeXT without its grid's image tokens, as a folder that stock servers load (paper appendix B).

    Example: tessera export-captioner --out captioner

    Args:
        out: Folder to make.
        model: A repository or folder.
    """
    from tessera.pretrained.captioner.llava_export import describe_serving
    from tessera.pretrained.captioner.llava_export import export_captioner as export_it

    export_it(out, model)
    serving = describe_serving(out)
    say(out, f"serve it with: {serving}", serve=serving)


def _say_if_complete(out: Path) -> None:
    from tessera.stages import read_manifest

    if read_manifest(out, must_be_complete=False).complete:
        say(out)
    else:
        text = f"{out}: the shards of this part are done; the call that ends last completes the directory"
        say_this(text, directory=str(out), complete=False)


def encode(
    images: Annotated[Path, "positional"],
    captions: Annotated[Path, "positional"],
    out: Path,
    recipe: Path | None = None,
    latents: str = "pixel-unshuffle:4",
    text: str = "words:64",
    text_encoding: Literal["int8", "fp16", "none"] = "int8",
    compute: Literal["fp32", "bf16"] = "fp32",
    device: str | None = None,
    engine: EngineKind = "here",
    workers: int | None = None,
    address: str | None = None,
    shard: str | None = None,
) -> None:
    """Encode images and captions as the records that training reads.

    Example: tessera encode images captions/plain --out encoded/plain

    Args:
        images: Directory made by collect.
        captions: Directory made by caption.
        out: Directory to make.
        recipe: Directory made by augment, for captions of mixed images.
        latents: Image codec, such as pixel-unshuffle:4, stabilityai/sd-vae-ft-ema or your my_parts.py:MyCodec.
        text: Text encoder, such as words:64, google/flan-t5-xl or your my_parts.py:MyEncoder.
        text_encoding: How token embeddings are stored; none: texts are encoded on the fly in training.
        compute: What pretrained networks compute in.
        device: Where they do: cuda, mps, cpu, or in this process cuda:N; the best there is by default.
        engine: In this process, in processes, or on a Ray cluster.
        workers: Processes or Ray actors; one for each GPU by default, without GPUs one for each core.
        address: Of the Ray cluster.
        shard: i/n: the i-th of n tasks of an array job; the last one to end completes the directory.
    """
    from tessera.curate.encode import EncodeConfig
    from tessera.curate.encode import encode as encode_all
    from tessera.workers import Engine, parse_part

    config = EncodeConfig(latents=latents, text=text, text_encoding=text_encoding, compute=compute)
    where = Engine(kind=engine, workers=workers, address=address, part=parse_part(shard))
    encode_all(out, images, captions, config, recipe=recipe, engine=where, device=device)
    _say_if_complete(out)


def preview(
    directory: Annotated[Path, "positional"],
    out: Path | None = None,
    number: int = 60,
    seed: int = 0,
    images: Path | None = None,
    recipe: Path | None = None,
) -> None:
    """Write a page of samples of what collect, augment, caption or encode made: one HTML file.

    Example: tessera preview captions/plain --out preview.html

    Args:
        directory: Directory made by collect, augment, caption or encode.
        out: The HTML file; DIRECTORY.html by default.
        number: How many records to show.
        seed: Seed of their choice.
        images: The images it was made from, where they lie elsewhere.
        recipe: The recipe it was made from, where it lies elsewhere.
    """
    from tessera.report.dataset_page import preview as preview_page

    place = directory.resolve()
    path = out or place.with_name(f"{place.name}.html")
    preview_page(directory, path, number=number, seed=seed, images=images, recipe=recipe)
    say_files([path])
