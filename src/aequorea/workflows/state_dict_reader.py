"""The process that takes tensors out of somebody's ``.pt`` file: it runs nothing that the file says.

    python -m aequorea.workflows.state_dict_reader FILE OUT.safetensors BYTES SECONDS

A pickle is a program. This reader lets it build dictionaries and name tensors, and nothing else; the numbers are copied
out of the archive after everything that the file says about them has been checked. It is a process of its own since a
hostile file may still take all memory, all time or the whole stack: it dies of that alone, within its limits. What is
wrong with a file is one line on standard output, and status 3.
"""

from __future__ import annotations

import json
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

REFUSED = 3
MOST_PICKLE_BYTES = 64 << 20
WRAPPERS = ("state_dict", "model_state_dict", "model")
AT_ONCE = 1 << 22
"""Bytes copied at a time."""
TYPES = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}


class Refused(Exception):
    """What is wrong with the file."""


class Storage(NamedTuple):
    """A run of numbers in the archive, as the pickle describes it."""

    kind: str
    key: str
    numbers: int


class View(NamedTuple):
    """A tensor as the pickle describes it; everything here may be a lie."""

    storage: Any
    offset: Any
    size: Any
    stride: Any


def _view(
    storage: Any, offset: Any, size: Any, stride: Any, grad: Any = False, hooks: Any = None, *rest: Any
) -> View:
    return View(storage, offset, size, stride)


class Words(pickle.Unpickler):
    """An unpickler to which a file can name nothing but dictionaries, tensors and types of numbers."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name of the file stands for; refuse what is no part of a state dict."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if module == "torch" and name in TYPES:
            return name
        raise Refused(f"asks for {module}.{name}, which weights have no use for")

    def persistent_load(self, pid: Any) -> Storage:
        """Return the storage that the file points to."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise Refused("points to something that is no storage")
        _, kind, key, _, count = pid
        if kind not in TYPES or not isinstance(key, str) or not _whole(count):
            raise Refused("describes a storage wrongly")
        return Storage(kind, key, count)


def _whole(n: Any) -> bool:
    return type(n) is int and 0 <= n < 1 << 62


def read(path: Path, out: Path) -> None:
    """Copy the tensors of a file into a safetensors file; raises :class:`Refused`."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise Refused(
            "no whole archive of PyTorch: cut off, or not made by torch.save (of version 1.6 or later)"
        ) from None
    with archive:
        members = {info.filename: info for info in archive.infolist()}
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise Refused("a compressed archive: torch.save makes none")
        if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
            raise Refused("its parts are larger than the file")
        found = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(found) != 1:
            raise Refused("an archive, but none of PyTorch: it holds no data.pkl")
        root = found[0].removesuffix("data.pkl")
        if members[found[0]].file_size > MOST_PICKLE_BYTES:
            raise Refused("its list of tensors is larger than 64 MB")
        order = f"{root}byteorder"
        if order in members and archive.read(order).strip() != b"little":
            raise Refused("its numbers are big-endian")
        with archive.open(found[0]) as file:
            said = Words(file).load()
        tensors = _tensors(said)
        _copy(archive, members, f"{root}data/", tensors, 4 * path.stat().st_size, out)


def _tensors(said: Any) -> dict[str, View]:
    """Return the tensors by name of what was unpickled, out of its wrapper if it has one."""
    for wrapper in WRAPPERS:
        if isinstance(said, dict) and isinstance(said.get(wrapper), dict):
            said = said[wrapper]
            break
    if not isinstance(said, dict) or not said:
        raise Refused("holds no dictionary of weights")
    for name, value in said.items():
        if not isinstance(name, str):
            raise Refused("a weight without a name")
        if not isinstance(value, View):
            raise Refused(f"'{name[:80]}' is no tensor")
    return dict(said)


def _copy(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    folder: str,
    tensors: dict[str, View],
    most: int,
    out: Path,
) -> None:
    header: dict[str, Any] = {}
    at = 0
    for name, view in tensors.items():
        length = _checked(name, view, members, folder)
        kind, _ = TYPES[view.storage.kind]
        header[name] = {"dtype": kind, "shape": list(view.size), "data_offsets": [at, at + length]}
        at += length
        if at > most:
            raise Refused("its tensors together are far larger than the file")
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with out.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for view in tensors.values():
            with archive.open(members[folder + view.storage.key]) as source:
                _write(source, view, file)


def _checked(name: str, view: View, members: dict[str, zipfile.ZipInfo], folder: str) -> int:
    """Return the bytes of a tensor; refuses one that is not inside of its storage, or larger than it."""
    storage, offset, size, stride = view
    right = isinstance(storage, Storage) and _whole(offset)
    right = right and isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 16
    if not right or not all(_whole(n) for n in (*size, *stride)):
        raise Refused(f"'{name[:80]}' is described wrongly")
    _, each = TYPES[storage.kind]
    member = members.get(folder + storage.key)
    if member is None or member.file_size != storage.numbers * each:
        raise Refused(f"'{name[:80]}': its numbers are not in the file")
    count = 1
    for n in size:
        count *= n
    last = offset + sum((n - 1) * s for n, s in zip(size, stride)) if count else offset
    if count > storage.numbers or (count and last >= storage.numbers):
        raise Refused(
            f"'{name[:80]}': {list(size)} with strides {list(stride)} are more numbers than are stored"
        )
    return count * each


def _write(source: Any, view: View, file: BinaryIO) -> None:
    """Write the numbers of a tensor in C order."""
    _, each = TYPES[view.storage.kind]
    dense, step = True, 1
    for n, s in zip(reversed(view.size), reversed(view.stride)):
        dense = dense and (n == 1 or s == step)
        step *= n
    if dense:
        source.seek(view.offset * each)
        left = step * each
        while left:
            part = source.read(min(left, AT_ONCE))
            if not part:
                raise Refused("cut off within its numbers")
            file.write(part)
            left -= len(part)
        return
    numbers = np.frombuffer(source.read(), np.dtype(f"V{each}"))[view.offset :]
    strides = [s * each for s in view.stride]
    file.write(np.ascontiguousarray(np.lib.stride_tricks.as_strided(numbers, view.size, strides)).tobytes())


def limit(memory: int, seconds: int) -> None:
    """Let this process take no more memory (bytes beyond what it has) and time than this, where the system can."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        held = 1 << 30
    resource.setrlimit(resource.RLIMIT_AS, (held + memory, held + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> int:
    """Read the file that the command line names."""
    path, out, memory, seconds = sys.argv[1:]
    limit(int(memory), int(seconds))
    try:
        read(Path(path), Path(out))
    except Refused as error:
        print(str(error))
    except MemoryError:
        print("asks for more memory than it is worth")
    except RecursionError:
        print("is nested too deeply")
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        OSError,
        struct.error,
    ) as error:
        print(f"damaged: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    else:
        return 0
    return REFUSED


if __name__ == "__main__":
    sys.exit(main())
