"""demo: a web page about a model; doctor: this machine; completion: the shell's."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from tessera.cli import output


def demo(
    export: Annotated[Path, "positional"],
    beside: Path | None = None,
    workspace: Path | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    device: str | None = None,
    extender: Literal["llm", "rules"] | None = None,
    extender_model: str | None = None,
    extender_server: str | None = None,
) -> None:
    """Serve a web page to prompt a model, walk through its data and see its scores; for this machine alone.

    Example: tessera demo out/miniature/export/ta_ia

    Args:
        export: Directory made by export or import-published.
        beside: A second export to draw side by side; by default another one in the same folder.
        workspace: Working folder with images/ and runs/; by default the one that the export lies in.
        host: Address to listen at. Others reach the page, without a password, at any but 127.0.0.1.
        port: Port to listen at; the first free one from 7860 on by default.
        device: cuda, mps or cpu; the best there is by default.
        extender: What the button "Extend my prompt" asks, as in extend-prompts; rules that fit the model by default.
        extender_model: For llm: of the Hub, a folder, or a name on the server; Llama-3.1 8B Instruct by default.
        extender_server: For llm: address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.
    """
    from tessera.demo.serve import serve
    from tessera.prompts.extend import ExtendConfig

    chosen = None
    if extender or extender_model or extender_server:
        chosen = ExtendConfig(extender=extender or "llm", model=extender_model, server=extender_server)
    serve(export, beside=beside, workspace=workspace, host=host, port=port, device=device, extender=chosen)
    # The server's threads still run: end without tearing the interpreter down under them.
    sys.stdout.flush()
    os._exit(0)


def doctor(folder: Annotated[Path, "positional"] = Path(), online: bool = False) -> None:
    """Check what this machine can do and name the command that fixes each problem; exit code 2 if something is missing.

    Example: tessera doctor out

    Args:
        folder: Folder of the work.
        online: Ask the Hub whether it gives the weights that are not on this machine; nothing is asked by default.
    """
    from tessera.doctor import describe, examine, to_json

    findings = examine(folder, online)
    facts = to_json(findings)
    output.say_this(describe(findings), **facts)
    if not facts["ready"]:
        sys.exit(2)


def completion(shell: Annotated[Literal["bash", "zsh", "tcsh"], "positional"]) -> None:
    """Print what makes a shell complete the verbs and flags of tessera, for the folder where it looks for such files.

    Example: tessera completion bash > ~/.local/share/bash-completion/completions/tessera

    Args:
        shell: Your shell.
    """
    from tessera import cli

    cli._app().cli(args=["--tyro-print-completion", shell], prog="tessera")
