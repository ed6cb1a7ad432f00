"""Facts of volumes that are found when they are first needed, and kept in the run folder.

Each is a pure function of its volume, so it makes no difference which run finds it, and when. ``found-N.jsonl`` is what
process N found; every process reads all of them when it begins.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aequorea.engine.durable import Journal
from aequorea.engine.train import process


class Found:
    """Plain data by key; safe to use from several threads.

    Parameters
    ----------
    run
        Run folder.
    """

    def __init__(self, run: Path) -> None:
        self._journal = Journal(run / f"found-{process()[0]}.jsonl")
        self._known: dict[str, str] = {}
        self._lock = threading.RLock()
        for file in sorted(run.glob("found-*.jsonl")):
            self._known.update((entry["key"], entry["fact"]) for entry in Journal(file).entries())

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        """Return the fact that is kept under ``key``, or find it out and keep it; always as JSON gives it back."""
        if key not in self._known:
            with self._lock:
                if key not in self._known:
                    text = json.dumps(make(), allow_nan=False, separators=(",", ":"))
                    self._journal.append({"key": key, "fact": text})
                    self._known[key] = text
        return json.loads(self._known[key])
