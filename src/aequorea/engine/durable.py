"""Files that are whole or not there, also after ``kill -9``, a full disk or a power cut.

Everything is written beside its place, flushed to the disk, digested and renamed; folders are flushed too,
since a rename lasts only when its folder does. A journal is the one file that grows: its torn last line is
ignored. What goes wrong with the disk becomes one line that the user can act on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from aequorea.errors import DataError

LEFTOVER = ".partial"


class Stamp(NamedTuple):
    """What was put on the disk: bytes, time of the last change (ns since 1970) and a BLAKE2 digest."""

    size: int
    mtime_ns: int
    digest: str


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the operating system into one line.

    Raises
    ------
    DataError
        Names the file, what is wrong with the disk, and what to do.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = "no space left on the disk; free some and run the same command again to go on"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = "no permission to write there; choose another place"
        else:
            why = f"{(error.strerror or str(error)).lower()}; choose another place"
        raise DataError(f"{path}: cannot be written: {why}") from error


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep other processes of this machine from writing the same meanwhile; however this one ends, its hold ends too.

    Raises
    ------
    DataError
        If another process holds it.
    """
    file = Path(tempfile.gettempdir()) / f"aequorea-{digest(str(path.resolve()).encode())}.lock"
    lock = FileLock(file)
    with suppress(OSError):  # where nothing can be locked, nothing is
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise DataError(
                f"{path}: another process is writing it; wait, or share the work with --part"
            ) from None
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                file.unlink(missing_ok=True)
            lock.release()


def digest(data: bytes | memoryview) -> str:
    """Return the 128-bit BLAKE2 digest of some bytes as hexadecimal text."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_file(path: Path, data: bytes | Iterable[bytes], beside: Path | None = None) -> Stamp:
    """Write a file, whole or not at all, and lastingly.

    Parameters
    ----------
    path
        Its place; folders that are missing are made.
    data
        Its bytes, at once or in pieces.
    beside
        A folder of the same file system for the unfinished file; default: the file's own.

    Raises
    ------
    DataError
        If the disk is full or may not be written; what was at ``path`` before is untouched.
    """
    pieces = (data,) if isinstance(data, bytes) else data
    seen, size = hashlib.blake2b(digest_size=16), 0
    with explained(path):
        make_folder(path.parent)
        make_folder(beside or path.parent)
        # Threads, processes and machines write at a time, and two may write the same file.
        partial = (beside or path.parent) / f".{path.name}.{uuid.uuid4().hex}{LEFTOVER}"
        try:
            handle = os.open(
                partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666
            )
            try:
                for piece in pieces:
                    _write_all(handle, piece)
                    seen.update(piece)
                    size += len(piece)
                os.fsync(handle)
            finally:
                os.close(handle)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        sync_folder(path.parent)
        return Stamp(size, path.stat().st_mtime_ns, seen.hexdigest())


def write_json(path: Path, data: Any) -> Stamp:
    """Write plain data as JSON, like :func:`write_file`."""
    return write_file(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def remove_file(path: Path) -> None:
    """Remove a file, if it is there, lastingly."""
    with explained(path):
        if path.exists():
            path.unlink()
            sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, lastingly."""
    missing = []
    with explained(path):
        while not path.is_dir():
            missing.append(path)
            path = path.parent
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)


def bytes_in(folder: Path, skip: str = "") -> int:
    """Return the bytes of all files in a folder, but for folders called ``skip``; what vanishes meanwhile counts 0."""
    total = 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != skip]
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(place, name).stat().st_size
    return total


def sync_folder(path: Path) -> None:
    """Flush a folder's list of names to the disk."""
    if os.name == "nt":  # folders cannot be opened there; NTFS journals its names itself
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove the unfinished files that a killed run left in a folder."""
    for path in folder.glob(f".*{LEFTOVER}"):
        with explained(path):
            path.unlink(missing_ok=True)


def _write_all(handle: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(handle, view) :]


class Journal:
    """Facts in the order in which they became true, one JSON object a line; safe to use from several threads.

    Parameters
    ----------
    path
        The file; made by the first :meth:`append`.

    Examples
    --------
    >>> import tempfile
    >>> journal = Journal(Path(tempfile.mkdtemp()) / "done.jsonl")
    >>> journal.append({"shard": [0, 1]})
    >>> journal.entries()
    [{'shard': [0, 1]}]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._torn = True  # nobody knows how the last run ended

    def entries(self) -> list[dict[str, Any]]:
        """Return the facts on the disk; what is no whole JSON object was cut by a kill and does not count."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with suppress(ValueError):  # of JSON and of UTF-8
                entry = json.loads(line)
                if isinstance(entry, dict):
                    found.append(entry)
        return found

    def append(self, entry: dict[str, Any]) -> None:
        """Add one fact, lastingly; raises :class:`DataError` where the disk does not take it."""
        line = (json.dumps(entry, separators=(",", ":")) + "\n").encode()
        with self._lock, explained(self.path):
            new = not self.path.exists()
            if new:
                make_folder(self.path.parent)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
            handle = os.open(self.path, flags, 0o666)
            try:
                # A line break ends whatever was cut, so that this line stands alone.
                torn, self._torn = self._torn and not new, True
                _write_all(handle, b"\n" + line if torn else line)
                os.fsync(handle)
                self._torn = False
            finally:
                os.close(handle)
            if new:
                sync_folder(self.path.parent)
