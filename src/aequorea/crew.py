"""Several processes, on any machines that share a disk, that write one store.

What is to be done is a list of numbered items (shards, blocks) per stage, each of which is done once, whole, and
leaves a file that says so. Process ``i`` of ``n`` does the ``i``-th share of the list and then waits for the others
as long as they show signs of life; what a process that died, or never began, has left undone is dealt out among
those that live. So neither the order in which a job array starts nor what is lost on the way matters: the last one
alive finishes. Nothing is locked: an item done twice is written twice, alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from aequorea.errors import DataError, SpecError
from aequorea.progress import Progress

BEAT_S = 5.0
"""Between signs of life."""
DEAD_S = 60.0
"""Without one after which a process counts as dead."""
POLL_S = 1.0
"""Between looks at what the others did."""
AT_ONCE = 2
"""Items of the dead that are taken over before looking again who lives."""

Left = Callable[[], Sequence[int]]


class TakeOver(Exception):
    """What is left of a stage is nobody's who lives: begin the work again, which now includes it."""


class AllDone(Exception):
    """Another process has finished the store."""


class Crew:
    """One process of several.

    Parameters
    ----------
    part, parts
        Which one of how many, from 1.
    folder
        Shared; for signs of life.

    Raises
    ------
    SpecError
        If the part is none of the parts.
    """

    def __init__(self, part: int = 1, parts: int = 1, folder: Path | None = None) -> None:
        if not 1 <= part <= parts:
            raise SpecError(f"--part {part}/{parts}: parts are counted from 1, e.g. --part 1/{max(1, parts)}")
        if parts > 1 and folder is None:
            raise ValueError("several processes need a folder for signs of life")
        self.part, self.parts, self.folder = part, parts, folder

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self.parts == 1

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Give signs of life; when it ends, the process has left."""
        if self.alone:
            yield
            return
        stop = threading.Event()
        self._beat()
        thread = threading.Thread(target=self._beats, args=(stop,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            with suppress(OSError):
                self._sign(self.part).unlink(missing_ok=True)

    def living(self) -> list[int]:
        """Return the parts that gave a sign of life lately, this one included; by the clock of the shared disk."""
        if self.alone:
            return [1]
        times = {part: self._seen(part) for part in range(1, self.parts + 1)}
        now = max(times.values())
        return [p for p, seen in times.items() if p == self.part or (seen and now - seen < DEAD_S)]

    def mine(self, left: Sequence[int], total: int) -> list[int]:
        """Return the items that this process is to do now, of those left.

        Parameters
        ----------
        left
            Numbers of the items not done.
        total
            Items of the stage; every part owns as many in a row.
        """
        if self.alone:
            return list(left)
        own = [item for item in left if self._owner(item, total) == self.part]
        if own:
            return own
        living = self.living()
        orphans = [item for item in left if self._owner(item, total) not in living]
        # From the end: an owner who comes late begins at the other one.
        return orphans[::-1][living.index(self.part) :: len(living)][:AT_ONCE]

    def one(self, done: Callable[[], bool], stage: str) -> bool:
        """Return whether this process is to do what one does for all; else return when it is done.

        Raises
        ------
        TakeOver
            If the one that was to do it is lost.
        """
        if self.alone or (not done() and self.mine([0], 1)):
            return True
        self.wait(lambda: [] if done() else [0], 1, stage)
        return False

    def wait(self, left: Left, total: int, stage: str) -> None:
        """Return when nothing is left of a stage that the others share in; at once where there are none.

        Parameters
        ----------
        left
            Numbers of the items not done, as the disk has it now.
        total
            Items of the stage.
        stage
            Its name, for the progress line.

        Raises
        ------
        TakeOver
            If something is left that this process should do.
        """
        if self.alone:
            return
        with Progress(f"the others: {stage}", total) as bar:
            while True:
                began = time.monotonic()
                missing = left()
                if not missing:
                    return
                if self.mine(missing, total):
                    raise TakeOver(stage)
                bar.advance(
                    total - len(missing) - bar.done, note=f"{len(self.living())} of {self.parts} at work"
                )
                time.sleep(max(POLL_S, 10 * (time.monotonic() - began)))  # looking must not be what is done

    def _owner(self, item: int, total: int) -> int:
        return item * self.parts // total + 1

    def _sign(self, part: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{part}"

    def _seen(self, part: int) -> float:
        try:
            return self._sign(part).stat().st_mtime
        except OSError:
            return 0.0

    def _beat(self) -> None:
        assert self.folder is not None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sign(self.part).write_bytes(b"alive")
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written: {error.strerror}") from error

    def _beats(self, stop: threading.Event) -> None:
        while not stop.wait(BEAT_S):
            with suppress(OSError):  # a disk that hiccups
                self._sign(self.part).write_bytes(b"alive")


def parse_part(text: str) -> tuple[int, int]:
    """Return (part, parts) of ``"2/8"``.

    Raises
    ------
    SpecError
        If it is something else.
    """
    try:
        part, parts = (int(word) for word in text.split("/"))
    except ValueError:
        raise SpecError(f"--part '{text}': expected which of how many, e.g. --part 2/8") from None
    Crew(part, parts, Path())
    return part, parts
