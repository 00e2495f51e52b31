"""The page's server: this machine alone, and nothing from elsewhere."""

import os
import socket
from pathlib import Path

import pytest

from tessera.config import UserError
from tessera.demo.serve import HOST, _free_port, serve


def test_it_listens_on_this_machine_alone(server):
    """The addresses at which the process listens, as the system tells them."""
    own = {link for link in map(os.readlink, Path(f"/proc/{server.process.pid}/fd").iterdir()) if "socket:" in link}
    listens = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in own:
                listens.append(local)
    port = int(server.address.rpartition(":")[2])
    assert listens == [f"0100007F:{port:04X}"]  # 127.0.0.1


def test_other_hosts_and_paths_get_nothing(server):
    import httpx

    assert httpx.get(server.address, headers={"Host": "evil.example"}).status_code == 400
    answer = httpx.get(server.address)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    for path in ("/etc/passwd", "../../etc/passwd"):
        assert httpx.get(f"{server.address}/gradio_api/file={path}").status_code in (403, 404)


def test_a_taken_port_is_named_and_the_next_free_one_found():
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"{HOST}, port {port}: .*choose another with --port"):
            _free_port(HOST, port)
        assert _free_port(HOST, None) != port
    for port in (0, -1, 99999999):
        with pytest.raises(UserError, match=f"port is {port}; give a number from 1 to 65535"):
            _free_port(HOST, port)


def test_a_folder_that_is_not_there_is_named(workspace, tmp_path):
    with pytest.raises(UserError, match="nowhere: there is no such folder"):
        serve(workspace / "export" / "ta", workspace=tmp_path / "nowhere", device="cpu")
