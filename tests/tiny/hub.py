"""A hub on loopback that has one data set of files: its list, and their bytes by ranges, behind a redirect."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves `files` (name -> bytes) as the data set lab/set. gives_ranges: False = whole files, whatever is asked for.

    sent: bytes of files that were sent. asked: names of files whose bytes were asked for. broken: a file that is
    answered by an error. Every fourth signature of an address is no longer valid.
    """

    def __init__(self, files: dict[str, bytes], gives_ranges: bool = True):
        self.files, self.gives_ranges, self.broken = files, gives_ranges, ""
        self.sent, self.asked, self.addresses, self.lock = 0, [], 0, threading.Lock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                length = headers.pop("length", str(len(content)))
                for name, value in {"Content-Length": length, **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def do_HEAD(self) -> None:
                name = self.path.partition(f"/datasets/lab/set/resolve/{COMMIT}/")[2]
                with hub.lock:
                    hub.addresses += 1
                    number = hub.addresses
                headers = {"ETag": '"x"', "X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(hub.files[name]))}
                self.answer(302, Location=f"http://localhost:{hub.port}/store/{number}/{name}", **headers)

            def do_GET(self) -> None:
                if self.path.startswith("/api/datasets/lab/set"):
                    siblings = [{"rfilename": name, "size": len(data)} for name, data in hub.files.items()]
                    return self.answer(200, json.dumps({"id": "lab/set", "sha": COMMIT, "siblings": siblings}).encode())
                found = re.fullmatch(r"/store/(\d+)/(.+)", self.path)
                if found is None:
                    return self.answer(404)
                if int(found[1]) % 4 == 0:
                    return self.answer(403)
                name = found[2]
                if name == hub.broken:
                    return self.answer(404)
                data, span = hub.files[name], re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
                assert span is not None
                assert "authorization" not in self.headers  # addresses are signed, and are not the Hub's
                part = data[int(span[1]) : int(span[2]) + 1] if hub.gives_ranges else data
                with hub.lock:
                    hub.sent += len(part)
                    hub.asked.append(name)
                return self.answer(206 if hub.gives_ranges else 200, part)

            def log_message(self, *_) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.address = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()
