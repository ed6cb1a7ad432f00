"""What the pages say is run: every ``bash`` and ``python`` block in order, in a folder of its own for each page.

A ``text`` block that follows is compared with what was printed (both streams, progress lines left out). In it
``...`` stands for anything. Comments in the page steer the test and are not seen by readers:

``<!-- test: setup`` *python* ``-->``
    run, to make the files that a page takes for granted
``<!-- test: skip -->``
    the next block is not run (it needs a viewer, a cluster, ...)
``<!-- test: A => B -->``
    in the blocks below on this page, ``A`` is replaced by ``B``, to make them quick
``<!-- test: within 0.2 -->``
    the decimal fractions of the next ``text`` block may be off by so much

A command that ends in ``# fails`` must leave with status 2, every other one with 0.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aequorea import cli, progress

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PIECE = re.compile(
    r"<!-- test: (?P<order>.*?)-->|^```(?P<kind>bash|console|python|text)\n(?P<body>.*?)^```", re.S | re.M
)
NUMBER = re.compile(r"-?\d+\.\d+")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#([^)\s]+))?\)")
PICTURE_BYTES = 200_000


@pytest.fixture(autouse=True)
def quiet_and_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder, with one thread and without progress lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(progress, "QUIET_S", 1e9)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page: Path) -> None:
    """Every block does what the page says that it does."""
    names: dict[str, object] = {"__name__": "page"}
    printed, skip, within = "", False, 0.0
    replaced: list[tuple[str, str]] = []
    for piece in PIECE.finditer(page.read_text(encoding="utf-8")):
        order, kind, body = piece["order"], piece["kind"], piece["body"]
        if order is not None:
            words = order.strip()
            if words.startswith("setup\n"):
                run_python(words.removeprefix("setup\n"), names)
            elif words == "skip":
                skip = True
            elif words.startswith("within "):
                within = float(words.removeprefix("within "))
            else:
                before, arrow, after = words.partition(" => ")
                assert arrow, f"{page.name}: what is <!-- test: {words} -->?"
                replaced.append((before, after))
            continue
        for before, after in replaced:
            body = body.replace(before, after)
        if kind == "text":
            if not skip:
                assert_printed(printed, body, within)
            skip, within = False, 0.0
            continue
        skipped, skip = skip, False
        if skipped:
            skip = piece.string[piece.end() :].lstrip().startswith("```text")
        elif kind == "python":
            printed = run_python(body, names)
        else:
            printed = run_shell(body)


def run_python(code: str, names: dict[str, object]) -> str:
    """Run a block among the names of those before it; returns what it printed."""
    with captured() as text:
        exec(compile(code, "<page>", "exec"), names)
    return text.getvalue()


def run_shell(block: str) -> str:
    """Run a block line by line; returns what it printed. ``aequorea`` runs in this process, which is quicker."""
    out = ""
    for line in re.sub(r"\\\n\s*", " ", block).splitlines():
        command = line.removeprefix("$ ").strip()
        if not command or command.startswith("#"):
            continue
        expected = 2 if command.endswith("# fails") else 0
        words = shlex.split(command, comments=True)
        if words[0] == "aequorea" and not set(words) & {"&&", "|", ">", ";"}:
            status, printed = run_aequorea(words[1:])
        else:
            done = subprocess.run(
                command, shell=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300
            )
            status, printed = done.returncode, done.stdout
        assert status == expected, f"'{command}' left with {status}:\n{printed}"
        out += printed
    return out


def run_aequorea(words: list[str]) -> tuple[int, str]:
    """Run a command as the console script does."""
    before = sys.argv
    status = 0
    with captured() as text:
        sys.argv = ["aequorea", *words]
        try:
            cli.main()
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else int(left.code is not None)
        except Exception:
            status = 1
            print(traceback.format_exc())
        finally:
            sys.argv = before
    return status, text.getvalue()


@contextlib.contextmanager
def captured() -> Iterator[io.StringIO]:
    """Catch both streams, and let warnings be lines as they are for users."""
    text = io.StringIO()
    with (
        contextlib.redirect_stdout(text),
        contextlib.redirect_stderr(text),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("default")
        yield text


def assert_printed(printed: str, wanted: str, within: float) -> None:
    """Compare line by line without spaces at the ends; numbers may differ by ``within``."""
    found, told = (tidy(text) for text in (printed, wanted))
    pattern = "".join(
        ".*?" if part == "..." else r"(-?\d+\.\d+)" if NUMBER.fullmatch(part) else re.escape(part)
        for part in re.split(r"(\.\.\.|-?\d+\.\d+)", told)
    )
    match = re.fullmatch(pattern, found, re.S)
    message = f"printed:\n{found}\n\nthe page says:\n{told}"
    assert match, message
    numbers = [float(text) for text in NUMBER.findall(told)]
    for number, text in zip(numbers, match.groups(), strict=True):
        assert abs(float(text) - number) <= within + 1e-12, f"{text} where {number} is told\n{message}"


def tidy(text: str) -> str:
    """Drop trailing spaces and empty lines at the ends."""
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Files and headings that a page links to exist."""
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve()
        assert path.exists(), f"{page.name}: {target}"
        if anchor and path.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page.name}: {target}#{anchor}"


def test_every_page_is_in_the_index() -> None:
    """docs/README.md links to every page."""
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target, _ in LINK.findall(index.read_text("utf-8"))}
    assert {page for page in PAGES[1:] if page != index} <= linked


def test_the_reference_is_what_the_code_says() -> None:
    """``python docs/make_reference.py`` was run after the last change of a docstring, recipe or option."""
    found = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["pages"]()
    for name, text in found.items():
        written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
        assert written == text, f"{name}: run python docs/make_reference.py"


def test_every_command_and_field_is_explained() -> None:
    """No option, field or command without words."""
    for page in ("commands.md", "recipes.md"):
        for line in (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8").splitlines():
            assert not re.fullmatch(r"\| [`-].*\|\s*\|", line), f"{page}: {line}"


def test_pictures_are_small() -> None:
    """A picture in the repository is under 200 kB."""
    for picture in (ROOT / "docs").rglob("*.png"):
        assert picture.stat().st_size < PICTURE_BYTES, picture


def test_the_comparison_notices_differences() -> None:
    """A wrong word and a number too far off fail; dots and near numbers pass."""
    assert_printed("a 0.512\nb\n", "a 0.50\n...", within=0.02)
    for printed, wanted in (("a 0.512", "a 0.50"), ("abc", "abd"), ("a\nb", "a")):
        with pytest.raises(AssertionError):
            assert_printed(printed, wanted, within=0.0)
