"""A progress bar on stderr, where that is a terminal; the same for every command."""

from __future__ import annotations

import sys
from typing import Any


class ProgressBar:
    """Shows one stage of a run after another. Use as a context manager."""

    def __init__(self, *, quiet: bool = False) -> None:
        """Shows nothing yet.

        Args:
            quiet: shows nothing at all.
        """
        self._quiet = quiet or not sys.stderr.isatty()
        self._bar: Any = None
        self._stage = ""

    @property
    def shown(self) -> bool:
        """Returns whether anybody sees it."""
        return not self._quiet

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, stage: str, done: int, total: int, unit: str = "photo", note: str = "") -> None:
        """Moves the bar; a new stage starts a new one.

        Args:
            stage: what is done.
            done: of it.
            total: in all, as far as it is known.
            unit: what is counted.
            note: what stands behind the bar.
        """
        if self._quiet:
            return
        from tqdm import tqdm

        if stage != self._stage:
            self.__exit__()
            self._stage = stage
            self._bar = tqdm(desc=stage, unit=unit, total=total, file=sys.stderr)
        self._bar.total = total
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)
