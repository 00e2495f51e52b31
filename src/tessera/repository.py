"""The files of a Hugging Face repository, fetched once into the Hub's local cache."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tessera.config import UserError
from tessera.runtime import install_command

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(?:@[\w./-]+)?")
"""owner/name, or owner/name@revision."""


def fetch_repository(name: str, patterns: Sequence[str], **options: Any) -> Path:
    """The folder of the local cache with the files of the repository `name` that match `patterns`.

    `options`: of huggingface_hub's `snapshot_download` (token, cache_dir, ...). Raises UserError for what is no such
    name, cannot be fetched, or needs the extra `hub`.
    """
    if not REPOSITORY.fullmatch(name):
        raise UserError(f"{name}: there is no such folder, and a Hugging Face repository is named owner/name")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(
            f"{name}: there is no such folder; to fetch it from the Hub, run: {install_command('hub')}"
        ) from None
    repository, _, revision = name.partition("@")
    if revision:
        options["revision"] = revision
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns), **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{name}: there is no such folder, and fetching it failed: {reason}") from error
