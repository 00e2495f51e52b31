"""The page's server: on this machine alone, without a public link, telemetry or anything else from the network."""

import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.demo.browse import find_workspace
from tessera.demo.drawing import Drawer, find_rival
from tessera.demo.extender import PromptExtender, world_of
from tessera.demo.studio import Studio
from tessera.extras import require
from tessera.prompts.extend import ExtendConfig

HOST, PORT, PORTS = "127.0.0.1", 7860, 20
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline';"
    " script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; font-src 'self' data:; connect-src 'self' data: blob:;"
    " media-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self';"
    " frame-ancestors 'self'"
)
"""The browser may load only what this server gives."""
_LAUNCH: dict[str, Any] = {"share": False, "quiet": True, "prevent_thread_lock": True, "ssr_mode": False}
_LAUNCH |= {"footer_links": [], "max_file_size": 0, "state_session_capacity": 100}


def _same_origin_only(app: Any) -> Any:
    """Wrap the server's app: add the content policy to every answer, and leave streams as they are."""

    async def with_headers(scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = [(b"content-security-policy", _POLICY.encode()), (b"referrer-policy", b"no-referrer")]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        await app(scope, receive, with_policy if scope["type"] == "http" else send)

    return with_headers


def serve(
    export: Path,
    *,
    beside: Path | None = None,
    workspace: Path | None = None,
    host: str = HOST,
    port: int | None = None,
    device: str | None = None,
    extender: ExtendConfig | None = None,
) -> None:
    """Serve the page about `export` until Ctrl-C.

    beside: an export to draw side by side; None = another one in the same folder, if there is one. workspace: the
    folder of data and runs; None = the one that the export lies in. port: None = the first free one from 7860 on.
    extender: of prompts; None = one that needs no language model. Raises UserError for no export, no gradio, no free
    port.
    """
    exports = (export, beside or find_rival(export))
    drawers = [Drawer(path, device) for path in exports if path is not None]
    folder = workspace or find_workspace(export)
    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give the one that holds images/ and runs/")
    free = _free_port(host, port)
    with tempfile.TemporaryDirectory(prefix="tessera-demo-", ignore_cleanup_errors=True) as scratch:
        _quieten(Path(scratch))
        require("gradio", "demo", wanted_by="demo")
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from tessera.demo.page import make_page, theme_and_style

        middleware = [Middleware(_same_origin_only)]
        if host in (HOST, "localhost"):  # a page elsewhere that points its own name here gets nothing
            middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]))
        studio = Studio(drawers, Path(scratch) / "drawn")
        seen = studio.captions
        world = world_of(folder, drawers[0].pipeline.info.text_encoder, seen.vocabulary if seen else ())
        own = seen.examples if seen else ()
        page = make_page(studio, folder, PromptExtender(world, extender, device, own))
        place: dict[str, Any] = {"server_name": host, "server_port": free, "allowed_paths": [str(studio.folder)]}
        page.launch(**place, app_kwargs={"middleware": middleware}, **_LAUNCH, **theme_and_style())
        print(f"Demo: http://{host}:{free} (Ctrl-C ends it)", flush=True)
        try:
            while True:
                time.sleep(0.5)
        except KeyboardInterrupt:
            print("ended", flush=True)


def _quieten(scratch: Path) -> None:
    """Turn telemetry and version checks off; put temporary files where they are removed at the end."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(scratch / "cache")
    for name in ("GRADIO_SHARE", "GRADIO_ROOT_PATH", "GRADIO_ALLOWED_PATHS", "GRADIO_MCP_SERVER"):
        os.environ.pop(name, None)


def _free_port(host: str, port: int | None) -> int:
    if port is not None and not 1 <= port <= 65535:
        raise UserError(f"port is {port}; give a number from 1 to 65535, or leave --port out")
    for number in [port] if port is not None else range(PORT, PORT + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, number))
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                continue
            return number
    asked = f"ports {PORT} to {PORT + PORTS - 1}" if port is None else f"port {port}"
    raise UserError(f"{host}, {asked}: {reason}; choose another with --port")
