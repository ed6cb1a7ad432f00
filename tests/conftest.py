"""Fixtures for all tests: random numbers, real data where it lies, and the count of tests that used it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from aequorea import registry
from aequorea.settings import settle

settle()  # as the command line does; before PyTorch is imported

from aequorea.workflows import pretrain, stroke_probe  # noqa: E402

# How long an example takes says something of the machine's other work, nothing of the law.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def data_folder() -> Path | None:
    """The folder of real volumes, from ``AEQUOREA_DATA`` or beside the checkout; ``None`` where it is not."""
    named = os.environ.get("AEQUOREA_DATA")
    path = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    return path if (path / "manifest_3d.csv").exists() else None


@pytest.fixture
def real_data() -> Path:
    """The folder of real volumes; the test is skipped where there is none, unless it is required."""
    folder = data_folder()
    if folder is None:
        reason = "real volumes are not here: set AEQUOREA_DATA to their folder"
        if os.environ.get("AEQUOREA_REQUIRE_DATA") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(autouse=True)
def small_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pretraining be judged on a small specimen: the usual one takes longer than most tests train."""
    monkeypatch.setattr(stroke_probe, "SIMULATED", (8, 64, 64))
    monkeypatch.setattr(pretrain, "SETTLING", 4)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed."""
    return np.random.default_rng(20240607)


@pytest.fixture(scope="module")
def dummies() -> Iterator[None]:
    """A package of somebody else, found as an installed one is: by its metadata on the path."""
    folder = str(Path(__file__).parent / "plugins")
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    registry._table.cache_clear()
    yield
    sys.path.remove(folder)
    registry._table.cache_clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests looked at real volumes."""
    counts = {"run": 0, "skipped": 0}
    for outcome, kind in (("passed", "run"), ("failed", "run"), ("skipped", "skipped")):
        for report in terminalreporter.stats.get(outcome, []):
            if "real_data" in getattr(report, "keywords", {}):
                counts[kind] += 1
    terminalreporter.write_line(f"real data: {counts['run']} run, {counts['skipped']} skipped")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):  # type: ignore[no-untyped-def]
    """Mark the reports of tests that use real volumes."""
    outcome = yield
    if "real_data" in getattr(item, "fixturenames", ()):
        outcome.get_result().keywords["real_data"] = 1
