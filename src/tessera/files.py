"""Files that are there whole or not at all: atomic writes, JSON, tables, hashes; and the lock of a folder."""

import contextlib
import hashlib
import importlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tessera.config import UserError

if TYPE_CHECKING:
    import pyarrow as pa

TEMPORARY = ".tmp-"  # what the names of unfinished files start with
LOCK = ".lock"  # a file that is locked for its folder, where folders cannot be locked themselves


@contextlib.contextmanager
def atomic_path(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, renamed to it at the end; removed if the body raises.

    The parent directory is made. `durable` waits until the disk has the bytes; thousands of small files that can be
    made again do without it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        try:
            if durable:
                sync(temporary)
            os.replace(temporary, path)
        except FileNotFoundError:
            raise UserError(
                f"{path}: was removed while it was written: another call works in {path.parent}, or it was deleted;"
                " let the other call end, then run this again"
            ) from None
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk or quota names no file
            error.filename = str(path)
        raise
    if durable:
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the disk has a file's bytes, or the names in a directory, which only posix lets one open."""
    folder = path.is_dir()
    if os.name != "posix" and folder:
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)  # Windows syncs no file that is open for reading
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(made: Path, path: Path, durable: bool = True) -> None:
    """Let `path` be a second name of a file that never changes, or a copy of it where there are no links."""
    for _ in range(2):
        try:
            return os.link(made, path)
        except FileExistsError:  # of an interrupted call
            path.unlink()
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:  # no links here, or to another disk
            break
    with atomic_path(path, durable) as temporary:
        shutil.copyfile(made, temporary)
    return None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, with the same bytes on every system."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, data: Any) -> None:
    """Write `data` atomically: keys sorted, one a line, so equal data are equal bytes. NaN is refused (ValueError)."""
    write_text(path, json_text(data))


def json_text(data: Any) -> str:
    """Return what `write_json` writes."""
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: Path, fix: str = "delete it and make it again") -> Any:
    """Return the data of a JSON file; UserError, with what to do about a damaged one, if it is missing or damaged."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # the latter of brackets within brackets
        raise UserError(f"{path}: is not JSON ({error}); {fix}") from error


_ROW_GROUP = 65_536  # rows of a table that are in memory at a time


def write_table(path: Path, table: "pa.Table | Mapping[str, Sequence[Any]]", schema: "pa.Schema | None" = None) -> None:
    """Write a Parquet file (zstd) atomically. `table`: an Arrow table, or columns by name with an optional schema."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not isinstance(table, pa.Table):
        table = pa.table(dict(table), schema=schema)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=_ROW_GROUP)


@contextlib.contextmanager
def writing_rows(path: Path, schema: "pa.Schema") -> Iterator[Callable[[Iterable[Sequence[Any]]], None]]:
    """Yield a function that takes rows (values in the schema's order) and writes them as a Parquet file (zstd).

    Row groups have 65,536 rows however the rows come in, so equal rows are equal bytes, and memory does not grow with
    them. The file is there at the end, whole, or not at all when the body raises.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        waiting: list[Sequence[Any]] = []

        def write(rows: Iterable[Sequence[Any]], least: int = _ROW_GROUP) -> None:
            waiting.extend(rows)
            while len(waiting) >= least:
                columns = zip(*waiting[:_ROW_GROUP])
                arrays = [pa.array(column, field.type) for column, field in zip(columns, schema)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=_ROW_GROUP)
                del waiting[:_ROW_GROUP]

        yield write
        write((), least=1)


def read_table(path: Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """Return a Parquet file as an Arrow table, or its `columns`. UserError if damaged, missing, or without them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for column in columns or ():
                if column not in names:
                    raise UserError(f"{path}: has no column {column!r}; it has {', '.join(names)}")
            return file.read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: is not a Parquet file or is damaged; make it again") from error


def make_directory(directory: Path) -> None:
    """Make `directory` and its parents if they are not there; UserError where that cannot be."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory}: is a file; give a directory")
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{directory}: cannot be made: {error.strerror}") from error


@contextlib.contextmanager
def exclusive_lock(directory: Path, busy: str) -> Iterator[None]:
    """Hold the lock of `directory`, made if need be, while the body runs.

    Raises UserError "DIRECTORY: BUSY; wait for it or stop it" if another process has it.
    The lock ends with the process. The directory itself is locked, or the file `.lock` in it on Windows and on network
    file systems that cannot do that; where neither can be locked, nothing is held.
    """
    make_directory(directory)
    with contextlib.ExitStack() as held:
        for path, flags in ((directory, os.O_RDONLY), (directory / LOCK, os.O_RDWR | os.O_CREAT)):
            with contextlib.suppress(OSError):
                descriptor = os.open(path, flags)
                held.callback(os.close, descriptor)
                if not _lock(descriptor):
                    raise UserError(f"{directory}: {busy}; wait for it or stop it")
                break
        yield


def _lock(descriptor: int) -> bool:
    """Lock an open file or directory; return False if another process has the lock. OSError: it cannot be locked."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        msvcrt = importlib.import_module("msvcrt")
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
    except BlockingIOError:
        return False
    return True


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_unfinished(directory: Path, spare: Sequence[str] = ()) -> None:
    """Remove the unfinished files of killed processes below `directory`, except those for a file named in `spare`.

    No process may be writing others there.
    """
    endings = tuple(f"-{name}" for name in spare)
    for leftover in directory.rglob(f"{TEMPORARY}*"):
        if leftover.is_file() and not leftover.name.endswith(endings):
            leftover.unlink(missing_ok=True)
