"""Somebody's weights are read without running anything, and what is no weights is refused in one line."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from aequorea.errors import FormatError
from aequorea.workflows.foreign import read_state_dict


class Numbers:
    """A storage as a pickle names it: what it says it has need not be true."""

    def __init__(self, count: int, key: str = "0") -> None:
        self.count, self.key = count, key


class Claim:
    """A tensor as a pickle describes it."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any) -> None:
        self.words = (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.words


class Pickler(pickle.Pickler):
    def persistent_id(self, thing: Any) -> Any:
        if isinstance(thing, Numbers):
            return ("storage", torch.FloatStorage, thing.key, "cpu", thing.count)
        return None


class Run:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def archive(path: Path, said: Any, numbers: int = 6, how: int = zipfile.ZIP_STORED) -> Path:
    """Write an archive as PyTorch does; ``said`` is pickled, or bytes of a pickle."""
    with zipfile.ZipFile(path, "w", how) as file:
        if isinstance(said, bytes):
            file.writestr("archive/data.pkl", said)
        else:
            with file.open("archive/data.pkl", "w") as member:
                Pickler(member, protocol=2).dump(said)
        file.writestr("archive/data/0", bytes(4 * numbers))
    return path


def refused(path: Path, match: str, **limits: int) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        read_state_dict(path, **limits)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("wrap", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_come_back(tmp_path: Path, wrap: str | None, prefix: str) -> None:
    base = torch.randn(4, 6)
    given = OrderedDict(
        (prefix + name, value)
        for name, value in {
            "plain": base,
            "transposed": base.T,
            "part": base[1:3, ::2],
            "one": torch.tensor(3),
            "none": torch.zeros(0, 3),
            "half": base.to(torch.bfloat16),
            "yes": base > 0,
        }.items()
    )
    given._metadata = OrderedDict(version=1)  # as modules' own state dicts have
    torch.save({wrap: given, "epoch": 3} if wrap else given, tmp_path / "a.pt")
    read = read_state_dict(tmp_path / "a.pt")
    assert list(read) == [name.removeprefix(prefix) for name in given] or set(read) == {
        name.removeprefix(prefix) for name in given
    }
    for name, value in given.items():
        found = read[name.removeprefix(prefix)]
        assert found.dtype == value.dtype
        assert torch.equal(found, value)


def test_nothing_is_run(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    refused(
        archive(tmp_path / "a.pt", {"w": Run(f"touch {seen}")}),
        r"asks for (posix|nt)\.system, which weights have no use for",
    )
    torch.save({"state_dict": {"w": torch.zeros(1)}, "more": Run(f"touch {seen}")}, tmp_path / "b.pt")
    refused(tmp_path / "b.pt", "asks for")
    assert not seen.exists()


def test_bombs(tmp_path: Path) -> None:
    packed = archive(tmp_path / "packed.pt", {"w": 1}, 50_000_000, zipfile.ZIP_DEFLATED)
    assert packed.stat().st_size < 500_000
    refused(packed, "compressed")
    lying = archive(tmp_path / "lying.pt", {"w": Claim(Numbers(6), 0, (6,), (1,))})
    blob = bytearray(lying.read_bytes())
    at = blob.rfind(b"PK\x01\x02")
    blob[at + 24 : at + 28] = struct.pack("<I", 1 << 31)  # what the directory says of its last member's size
    lying.write_bytes(blob)
    refused(lying, "larger than the file")
    many = {str(i): Claim(Numbers(6000), 0, (6000,), (1,)) for i in range(99)}
    refused(archive(tmp_path / "many.pt", many, 6000), "far larger than the file")
    # A number in the list of what was said before, for which two billion places would be held.
    refused(archive(tmp_path / "memo.pt", b"\x80\x02}r\xff\xff\xff\x7f."), "memory|damaged", memory=1 << 28)


@pytest.mark.parametrize(
    "said",
    [
        b"\x80\x02" + b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
        b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s.",  # a key, whose digest is asked for
    ],
)
def test_depth(tmp_path: Path, said: bytes) -> None:
    refused(archive(tmp_path / "a.pt", said), "no dictionary|too deeply|brought the reader down")


@pytest.mark.parametrize(
    "words",
    [
        (Numbers(6), 0, (7,), (1,)),
        (Numbers(6), 4, (3,), (1,)),
        (Numbers(6), 0, (1 << 40,), (0,)),
        (Numbers(6), 0, (2, 2), (1 << 40, 1)),
        (Numbers(6), 0, (-1,), (1,)),
        (Numbers(6), -1, (1,), (1,)),
        (Numbers(6), 0, (2,), (-1,)),
        (Numbers(6), 0, (2, 3), (1,)),
        (Numbers(6), 0, (2.5,), (1,)),
        (Numbers(6), 0, "ab", (1, 1)),
        (Numbers(1 << 40), 0, (1 << 40,), (1,)),
        (Numbers(6, "1"), 0, (6,), (1,)),
        ("none", 0, (6,), (1,)),
    ],
)
def test_tensors_that_lie(tmp_path: Path, words: tuple[Any, ...]) -> None:
    refused(archive(tmp_path / "a.pt", {"weight": Claim(*words)}), "'weight'|wrongly")


def test_no_weights(tmp_path: Path) -> None:
    torch.save({"w": torch.randn(100, 100)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 10):
        (tmp_path / "b.pt").write_bytes(whole[:length])
        refused(tmp_path / "b.pt", "no whole archive")
    refused(tmp_path / "missing.pt", "no such file")
    refused(tmp_path, "no such file")
    torch.save({"w": torch.zeros(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    refused(tmp_path / "old.pt", "1.6")
    for name, said in {"list": [1], "empty": {}, "number": {1: 2}, "text": {"w": "x"}}.items():
        refused(archive(tmp_path / f"{name}.pt", said), "no dictionary|without a name|'w' is no tensor")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as file:
        file.writestr("readme", "nothing")
    refused(tmp_path / "zip.pt", "no data.pkl")
    refused(archive(tmp_path / "cut.pt", b"\x80\x02}"), "damaged")


def test_time_is_limited(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "more than 0 s", seconds=0)
