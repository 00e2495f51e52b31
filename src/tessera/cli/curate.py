"""Verbs from images to encoded records."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from tessera.cli.options import (
    Address,
    ClassNames,
    Device,
    Engine,
    Images,
    Layout,
    Out,
    Reuse,
    Server,
    Shard,
    SingleClass,
    SkipMissing,
    Split,
    WorkerDevice,
    Workers,
)
from tessera.cli.output import say, say_files


def collect(
    source: Annotated[str, "positional"],
    out: Out,
    size: Annotated[int | None, "Side of the crops in pixels; 256, or 32 for the miniature, by default."] = None,
    single_class: SingleClass = None,
    split: Split = "train",
    layout: Layout = None,
    class_names: ClassNames = None,
    fast: Annotated[bool, "Decode JPEG files near the crop's size: faster, and not quite the exact pixels."] = False,
    gray_range: Annotated[bool, "Scale gray of over 8 bits by each image's own lowest and highest level."] = False,
    buckets: Annotated[bool, "Crops of several aspect ratios, of about size x size pixels, not squares."] = False,
    reuse: Reuse = None,
    by_hash: Annotated[bool, "For --reuse: tell files apart by their bytes, not by size, times and place."] = False,
    num_images: Annotated[int | None, "Images of the miniature; 8000 by default."] = None,
    seed: Annotated[int | None, "Seed of the miniature; 0 by default."] = None,
) -> None:
    """Make square crops in class folders: of the miniature world, a folder of yours, or ImageNet as it comes.

    The layout is told from what is there: class folders, Kaggle's tree, the official tar of tars (read in place), the
    Hub's Parquet files, WebDataset tars.

    Example: tessera collect photos/ --out images --size 256

    Args:
        source: "miniature", a folder with a folder of images for each class, ImageNet's tree, tar or Parquet files.
    """
    from tessera.config import UserError
    from tessera.curate.collect import collect as stage
    from tessera.miniature import WorldConfig
    from tessera.stages import read_manifest

    if size is None:
        size = 32 if source == stage.MINIATURE else 256
    if size % 8:
        needs = "the VAEs of the full-size models need a multiple of 8, pixel-unshuffle:4 one of 4"
        print(f"collect: encode may refuse images of {size} px: {needs}", file=sys.stderr)
    drawn = source == stage.MINIATURE
    if not drawn and (num_images is not None or seed is not None):
        raise UserError(
            f"{source}: --num-images and --seed are the miniature's; a folder is taken whole, leave them out"
        )
    count = WorldConfig.num_images if num_images is None else num_images
    world = WorldConfig(num_images=count, size=size, seed=seed or 0) if drawn else None
    config = stage.CollectConfig(
        source=source if drawn else Path(source).resolve().name,
        size=size,
        single_class=single_class,
        split=split,
        layout=layout,
        fast=fast,
        gray_range=gray_range,
        buckets=buckets,
        class_names=class_names,
        world=world,
    )
    stage.collect(out, config, None if drawn else Path(source), reuse=reuse, by_hash=by_hash)
    facts = read_manifest(out).facts
    slow, grown = facts.get("read_by_pillow"), facts.get("grown")
    notes = [f"{slow} JPEG files that simplejpeg refuses were read without --fast"] if slow else []
    if grown:
        counts = ", ".join(f"{grown[kind]} {kind}" for kind in ("added", "changed", "removed"))
        notes.append(f"{counts}; they are named in {out / 'changes.json'}")
    say(out, "; ".join(notes))


def augment(
    images: Images,
    out: Out,
    pattern: str = "all",
    half_view: Literal["aligned", "centre"] = "aligned",
    partners: Literal["random", "balanced", "far"] = "random",
    embeddings: Annotated[str | None, "For far: dinov2 (default), clip, ..., dinov2:FOLDER, or pixels."] = None,
    device: Device = None,
    seed: Annotated[int, "Seed of the draws."] = 0,
    from_captions: str | None = None,
    write_images: Annotated[bool, "Write the mixed images out too."] = False,
) -> None:
    """Draw the CutMix recipe of a set: which images are mixed, and where (paper section 3.2).

    Example: tessera augment images --out recipe --pattern all

    Args:
        pattern: half, quarter, ninth, sixteenth, or all four in equal parts; crop mixes nothing, it enlarges a window;
            FILE.py:NAME is a pattern of yours.
        half_view: half shows the base's left (top) half with the partner's right (bottom) half, or the middle of both.
        partners: random, as in the paper; balanced mixes every pair of classes, in every place, equally often;
            far: of eight random images of other classes the one that is least like the base to a network.
        from_captions: Captions named base_partner_x0_y0_x1_y1, as published: the recipe is what their names say.
    """
    from tessera.curate import augment as stage

    config = stage.AugmentConfig(
        pattern=pattern,
        half_view=half_view,
        partners=partners,
        embeddings=embeddings or ("dinov2" if partners == "far" else None),
        seed=seed,
        from_captions=from_captions,
    )
    stage.augment(out, images, config, write_images=write_images, device=device)
    say(out)


def caption(
    images: Images,
    out: Out,
    captioner: str = "aio",
    recipe: Annotated[Path | None, "Directory made by augment: caption its mixed images."] = None,
    file: str | None = None,
    captions: tuple[str, ...] = (),
    seed: Annotated[int, "Seed of the phrasings."] = 0,
    model: Annotated[str | None, "llava, summarize: a repository or folder; with a server its name there."] = None,
    server: Server = None,
    concurrency: Annotated[int, "For openai, questions asked at a time."] = 256,
    device: WorkerDevice = None,
    engine: Engine = "here",
    workers: Workers = None,
    address: Address = None,
    shard: Shard = None,
    max_tokens: Annotated[int, "llava, openai: tokens of the longest answer; a cut one ends at a sentence."] = 200,
    skip_missing: SkipMissing = False,
    reuse: Reuse = None,
) -> None:
    """Write captions of a set, or of its CutMix images (paper section 3.1).

    Example: tessera caption images --out captions/plain --captioner scene

    Args:
        captioner: aio ("An image of <class-name>"), scene (the miniature's ground truth), import (a file), llava
            (LLaVA-NeXT on this machine), openai (any OpenAI-compatible server), your own class, FILE.py:NAME; several
            captions an image: join (of several directories), shorten (medium and short ones by rules); summarize
            (short ones by a language model, for join).
        file: For import: csv, tsv, json, jsonl or parquet with columns such as key or file_name and text or caption
            (others: FILE:NAME,TEXT); a folder with metadata.csv or .jsonl, or .txt files next to the images; or
            OWNER/NAME on the Hugging Face Hub. For the captioners that look: captions by hand for what they leave.
        captions: Directories made by caption from the same images: for join a level and one for each, such as
            long=captions/a short=captions/b; for shorten and summarize one.
    """
    from tessera import workers as work
    from tessera.curate.caption import caption as stage

    config = stage.CaptionConfig(captioner=captioner, seed=seed, model=model)
    where = work.Engine(kind=engine, workers=workers, address=address, part=work.parse_part(shard))
    places = {"engine": where, "device": device, "server": server, "concurrency": concurrency}
    limits = {"max_new_tokens": max_tokens, "skip_missing": skip_missing, "reuse": reuse}
    stage.caption(out, images, config, recipe=recipe, captions_file=file, captions=captions, **places, **limits)
    say(out)


def fetch_captions(
    dataset: Annotated[str, "positional", "OWNER/NAME on the Hub, of WebDataset tars."],
    out: Annotated[Path, "Directory to make."],
) -> None:
    """Read the texts in a data set of tars on the Hub without its images, as a captions file for `caption`.

    Example: tessera fetch-captions arijitghosh/T2I-ImageNet-Normal --out told
    """
    from tessera.curate.caption import hub_tars

    hub_tars.fetch_captions(out, dataset)
    say(out, f"use them by: tessera caption images --captioner import --file {out / 'captions.parquet'}")


def export_captioner(
    out: Annotated[Path, "Folder to make."],
    model: Annotated[str, "A repository or folder."] = "llava-hf/llama3-llava-next-8b-hf",
) -> None:
    """Write a LLaVA-NeXT without its grid's image tokens, as a folder that stock servers load (paper appendix B).

    Example: tessera export-captioner --out captioner
    """
    from tessera.pretrained.captioner import llava_export

    llava_export.export_captioner(out, model)
    serving = llava_export.describe_serving(out)
    say(out, f"serve it with: {serving}", serve=serving)


def encode(
    images: Images,
    captions: Annotated[Path, "positional", "Directory made by caption."],
    out: Out,
    recipe: Annotated[Path | None, "Directory made by augment, for captions of mixed images."] = None,
    latents: str = "pixel-unshuffle:4",
    text: str = "words:64",
    text_encoding: Literal["int8", "fp16", "none"] = "int8",
    features: str | None = None,
    compute: Annotated[Literal["fp32", "bf16"] | None, "Of pretrained networks; by default bf16 on CUDA."] = None,
    device: WorkerDevice = None,
    engine: Engine = "here",
    workers: Workers = None,
    address: Address = None,
    shard: Shard = None,
    skip_missing: SkipMissing = False,
    reuse: Reuse = None,
) -> None:
    """Encode images and captions as the records that training reads.

    Example: tessera encode images captions/plain --out encoded/plain

    Args:
        latents: Image codec: pixel-unshuffle:4, a VAE of diffusers such as stabilityai/sd-vae-ft-ema, or your
            my_parts.py:MyCodec.
        text: Text encoder: words:64, one of transformers such as google/flan-t5-xl, or your my_parts.py:MyEncoder.
        features: Vision network whose features are stored too, to align with: dinov2, mae, ..., or dinov2:FOLDER.
        text_encoding: How token embeddings are stored; none: texts are encoded on the fly in training.
    """
    from tessera import workers as work
    from tessera.curate import encode as stage

    where = work.Engine(kind=engine, workers=workers, address=address, part=work.parse_part(shard))
    where.check_device(device)
    compute = compute or stage.default_compute(out, latents, text, device)
    config = stage.EncodeConfig(
        latents=latents, text=text, text_encoding=text_encoding, features=features, compute=compute
    )
    places = {"engine": where, "device": device}
    stage.encode(out, images, captions, config, recipe=recipe, **places, skip_missing=skip_missing, reuse=reuse)
    say(out)


def tau(
    preset: Annotated[str, "positional", "PRESET:ARM that is to be trained, for its noise and latents."],
    plain: Annotated[Path, "Directory made by encode."],
    augmented: Annotated[Path, "Directory made by encode from the recipe."],
    recipe: Annotated[Path, "Directory made by augment."],
    out: Out,
    fit: Annotated[bool, "Take shapes and normalization from the set, as in train."] = False,
    device: Device = None,
) -> None:
    """Find for each mixed image the least noise at which nothing shows that it is one, for train --tau.

    Example: tessera tau miniature:ta_ia --plain encoded/plain --augmented encoded/mixed --recipe recipe --out tau
    """
    from tessera.curate import tau as stage
    from tessera.presets.lookup import load_train_preset

    config = load_train_preset(preset, fit=plain if fit else None)
    stage.tau(out, plain, augmented, recipe, stage.TauConfig.of(config), device=device)
    say(out, stage.summary(out))


def preview(
    directory: Annotated[Path, "positional", "Directory made by collect, augment, caption or encode."],
    out: Annotated[Path | None, "The HTML file; DIRECTORY.html by default."] = None,
    number: Annotated[int, "How many records to show at full size."] = 60,
    most: Annotated[int, "How many records to list, to be searched and sorted; 0: none."] = 20_000,
    seed: Annotated[int, "Seed of their choice."] = 0,
    images: Annotated[Path | None, "The images it was made from, where they lie elsewhere."] = None,
    recipe: Annotated[Path | None, "The recipe it was made from, where it lies elsewhere."] = None,
) -> None:
    """Write a page about what collect, augment, caption or encode made, to search and sort: one HTML file.

    Example: tessera preview captions/plain --out preview.html
    """
    from tessera.report import dataset_page

    place = directory.resolve()
    path = out or place.with_name(f"{place.name}.html")
    dataset_page.preview(directory, path, number=number, seed=seed, images=images, recipe=recipe, most=most)
    say_files([path])
