"""demo: a web page about a model; doctor: this machine; completion: the shell's."""

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from tessera.cli import output
from tessera.cli.options import Device, ExtenderModel, Server
from tessera.config import UserError


def demo(
    export: Annotated[Path, "positional", "Directory made by export, import-published or run."],
    beside: Annotated[Path | None, "Second export to draw side by side; by default another of the same folder."] = None,
    workspace: Annotated[Path | None, "Folder with images/ and runs/; the one around the export by default."] = None,
    host: str = "127.0.0.1",
    port: Annotated[int | None, "Port to listen at; the first free one from 7860 on by default."] = None,
    device: Device = None,
    extender: Literal["llm", "rules"] | None = None,
    extender_model: ExtenderModel = None,
    extender_server: Server = None,
) -> None:
    """Serve a web page to prompt a model, walk through its data and see its scores; for this machine alone.

    Example: tessera demo out/miniature/export/ta_ia

    Args:
        host: Address to listen at. Others reach the page, without a password, at any but 127.0.0.1.
        extender: What the button "Extend my prompt" asks, as in extend-prompts; rules that fit the model by default.
    """
    from tessera.demo.serve import serve
    from tessera.prompts.extend import ExtendConfig
    from tessera.stages import the_export

    export = the_export(export, or_last=True)
    chosen = None
    if extender or extender_model or extender_server:
        chosen = ExtendConfig(extender=extender or "llm", model=extender_model, server=extender_server)
    serve(export, beside=beside, workspace=workspace, host=host, port=port, device=device, extender=chosen)
    # The server's threads still run: end without tearing the interpreter down under them.
    sys.stdout.flush()
    os._exit(0)


def doctor(
    folder: Annotated[Path, "positional", "Folder of the work."] = Path(),
    online: Annotated[bool, "Ask the Hub whether it gives the weights that are not on this machine."] = False,
    vae: Annotated[tuple[str, ...], "VAEs to try on your images, by name or folder."] = (),
    images: Annotated[Path | None, "Your images, for --vae."] = None,
    sheet: Annotated[Path, "Contact sheet of --vae to write: the images, and what each VAE makes of them."] = Path(
        "vaes.png"
    ),
    size: Annotated[int, "Side of the crops that --vae gets, in pixels."] = 256,
    count: Annotated[int, "Images that --vae gets."] = 64,
    device: Device = None,
) -> None:
    """Check what this machine can do and name the command that fixes each problem; exit code 2 if something is missing.
    With --vae: compare VAEs on your own images instead.

    Example: tessera doctor out
    """
    if vae or images is not None:
        _try_vaes(vae, images, sheet, size, count, device)
        return
    from tessera import doctor

    findings = doctor.examine(folder, online)
    facts = doctor.to_json(findings)
    output.say_this(doctor.describe(findings), **facts)
    if not facts["ready"]:
        sys.exit(2)


def _try_vaes(vaes: Sequence[str], images: Path | None, sheet: Path, size: int, count: int, device: str | None) -> None:
    """Say what each VAE leaves of the images."""
    if images is None or not vaes:
        raise UserError("doctor: --vae and --images go together: --vae stabilityai/sd-vae-ft-ema --images photos")
    from tessera.curate.reconstruct import ReconstructConfig, reconstruct
    from tessera.report.text_tables import aligned

    found = reconstruct(images, vaes, sheet, ReconstructConfig(size=size, count=count), device)
    head = ("VAE", "latents", "PSNR, dB", "worst image, dB", "mean error, of 255")
    rows = [
        (
            r.vae,
            " x ".join(map(str, r.latent_shape)),
            f"{r.psnr:.2f}",
            f"{r.worst_psnr:.2f}, {r.worst}",
            f"{r.error:.2f}",
        )
        for r in found
    ]
    text = "\n".join([*aligned(head, rows), f"Sheet: {sheet}"])
    output.say_this(text, sheet=str(sheet), vaes=[asdict(each) for each in found])


def completion(shell: Annotated[Literal["bash", "zsh", "tcsh"], "positional", "Your shell."]) -> None:
    """Print what makes a shell complete the verbs and flags of tessera, for the folder where it looks for such files.

    Example: tessera completion bash > ~/.local/share/bash-completion/completions/tessera
    """
    from tessera.cli import GROUPS, VERBS, parse

    parse.app(VERBS, GROUPS).cli(args=["--tyro-print-completion", shell], prog="tessera")
