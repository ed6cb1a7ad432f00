"""Files are whole or not there; journals outlive a cut line; disk errors are one line."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aequorea.engine.durable import (
    Journal,
    digest,
    explained,
    file_digest,
    held,
    sweep,
    write_file,
    write_json,
)
from aequorea.errors import DataError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_writes_and_stamps(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "a.bin"
    stamp = write_file(path, iter([b"one", b"", b"two"]))
    assert path.read_bytes() == b"onetwo"
    assert stamp == (6, path.stat().st_mtime_ns, digest(b"onetwo"))
    assert file_digest(path) == digest(b"onetwo")
    write_file(path, b"three")
    assert path.read_bytes() == b"three"
    assert names(tmp_path) == ["a.bin"]
    write_json(tmp_path / "b.json", {"x": [1, 2.5, "µ"]})
    assert json.loads((tmp_path / "b.json").read_text()) == {"x": [1, 2.5, "µ"]}


def test_flushed_before_and_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    write_file(tmp_path / "a", b"x")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("step", ["open", "write", "fsync", "replace"])
@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "no permission")]
)
def test_a_disk_error_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int, words: str
) -> None:
    path = tmp_path / "a.bin"
    write_file(path, b"before")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        with pytest.raises(DataError, match=words) as raised:
            write_file(path, b"after")
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == b"before"
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    with pytest.raises(DataError, match="no permission"):
        write_file(folder / "a", b"x")
    with pytest.raises(DataError, match="no permission"):
        write_file(folder / "deeper" / "a", b"x")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be written"):
        write_file(tmp_path / "file" / "a", b"x")


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), explained(tmp_path):
        raise KeyError


def test_sweep_takes_leftovers_only(tmp_path: Path) -> None:
    for name in (".a.bin.12-34.partial", "b.bin", "c.partial"):
        (tmp_path / name).write_bytes(b"")
    sweep(tmp_path)
    assert names(tmp_path) == ["b.bin", "c.partial"]


ENTRIES = st.lists(
    st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=6), max_size=3), max_size=6
)


@settings(deadline=None, max_examples=40)
@given(ENTRIES, st.integers(1, 60), ENTRIES)
def test_journal_cut_anywhere_goes_on(
    tmp_path_factory: pytest.TempPathFactory, first: list[dict], cut: int, second: list[dict]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "a.jsonl"
    journal = Journal(path)
    for entry in first:
        journal.append(entry)
    assert journal.entries() == first
    data = path.read_bytes() if first else b""
    kept = data[: max(0, len(data) - cut)]
    if first:
        path.write_bytes(kept)
    again = Journal(path)
    whole = again.entries()
    assert whole == first[: len(whole)]
    assert len(whole) >= kept.count(b"\n")
    for entry in second:
        again.append(entry)
    assert Journal(path).entries() == whole + second


def test_journal_goes_on_after_a_failed_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    journal.append({"a": 1})
    write = os.write

    def half(handle: int, data: bytes) -> int:
        write(handle, bytes(data)[:3])
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(DataError, match="no space left"):
            journal.append({"b": 2})
    journal.append({"c": 3})
    assert journal.entries() == [{"a": 1}, {"c": 3}]


def test_journal_from_many_threads(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    threads = [
        threading.Thread(target=lambda n=n: [journal.append({"n": n, "i": i}) for i in range(8)])
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((e["n"], e["i"]) for e in journal.entries()) == [(n, i) for n in range(6) for i in range(8)]


def test_what_is_held_is_held_by_one_process(tmp_path: Path) -> None:
    """And by nobody any more once that was killed."""
    code = f"""
import time
from pathlib import Path
from aequorea.engine.durable import held
with held(Path({str(tmp_path / "out")!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="another process is writing it"), held(tmp_path / "out"):
            pass
        with held(tmp_path / "another"):
            pass
        other.kill()
        other.wait()
    for _ in range(2):
        with held(tmp_path / "out"):
            pass
