"""The verbs for people: a web page about a model, and what this machine can do."""

from pathlib import Path
from typing import Annotated, Literal

from tessera.cli import output as shown


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
    """A web page to prompt a model, walk through its data and see its scores; for this machine alone.

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


def doctor(folder: Annotated[Path, "positional"] = Path(), online: bool = False) -> None:
    """What this machine can do, and the one command that mends each lack; exit code 2 where something lacks.

    Example: tessera doctor out

    Args:
        folder: Where the work is to lie.
        online: Ask the Hub whether it gives the weights that are not on this machine; nothing is asked by default.
    """
    import json
    import sys

    from tessera.doctor import examine, to_json

    findings = examine(folder, online)
    if shown.as_json:
        print(json.dumps(to_json(findings)))
    else:
        signs = {"ok": "ok  ", "lack": "LACK", "note": "    "}
        for finding in findings:
            print(f"{signs[finding.state]} {finding.what}: {finding.found}")
            if finding.fix:
                print(f"       -> {finding.fix}")
    if any(finding.state == "lack" for finding in findings):
        sys.exit(2)


def completion(shell: Annotated[Literal["bash", "zsh", "tcsh"], "positional"]) -> None:
    """What makes a shell complete the verbs and flags of tessera; put it where your shell looks for such files.

    Example: tessera completion bash > ~/.local/share/bash-completion/completions/tessera

    Args:
        shell: Your shell.
    """
    from tessera import cli

    cli._app().cli(args=["--tyro-print-completion", shell], prog="tessera")
