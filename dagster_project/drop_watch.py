"""Decides which drops are complete and have not been protected as they are now. Knows no Dagster.

A new drop is complete once its marker is there, or, where no marker is asked for, once it has not changed for the
quiet period. A drop that changes after it was launched is launched again once it has not changed for that long.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from time import monotonic

from rid.resources.drop_listing import DropListing, list_drops
from rid.resources.schemas import check_drop_name
from rid.resources.storage import Storage


@dataclass(frozen=True)
class Completeness:
    """The rules by which a drop is complete.

    Attributes:
        marker: file that has to be in a new drop's folder; empty asks for none.
        quiet_seconds: how long a drop must not have changed.
    """

    marker: str = ""
    quiet_seconds: float = 60.0


@dataclass
class WatchedDrop:
    """The record of one drop.

    Attributes:
        fingerprint: of its files, when it was last listed.
        since: when that was first seen, in seconds since the epoch.
        launched: fingerprint that it was last launched with; empty if it never was.
        entry: the folder or file.
    """

    fingerprint: str
    since: float
    launched: str
    entry: str


@dataclass
class Observation:
    """The result of one look at the source.

    Attributes:
        ready: drops to launch, in the order of the listing.
        waiting: drops that are not complete.
        refused: why an entry is no drop, by entry.
    """

    ready: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)


class DropWatch:
    """The state between two looks at the source."""

    def __init__(self, drops: dict[str, WatchedDrop] | None = None, resume: str = "") -> None:
        """Takes up where an earlier look ended.

        Args:
            drops: those seen so far, by name.
            resume: file behind which the next look begins; empty begins at the start.
        """
        self.drops = drops or {}
        self.resume = resume

    def observe(self, listings: Iterable[DropListing], now: float, rule: Completeness) -> Observation:
        """Takes in what was listed and says which drops are ready; call `launched` once they are."""
        found = Observation()
        for listing in listings:
            refusal = self._refusal(listing)
            if refusal:
                found.refused[listing.entry] = refusal
            elif listing.files:
                self._take_in(listing, now, rule, found)
        return found

    def launched(self, names: Iterable[str]) -> None:
        """Notes that drops were launched as they are."""
        for name in names:
            self.drops[name].launched = self.drops[name].fingerprint

    def forget_others(self, names: set[str]) -> None:
        """Forgets drops that are gone from the source, after all of it was listed."""
        self.drops = {name: drop for name, drop in self.drops.items() if name in names}

    def to_json(self) -> str:
        """Returns the state as text; the same state gives the same text."""
        drops = {name: list(vars(drop).values()) for name, drop in sorted(self.drops.items())}
        return json.dumps({"resume": self.resume, "drops": drops}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> DropWatch:
        """Reads what `to_json` wrote."""
        state = json.loads(text)
        return cls({name: WatchedDrop(*fields) for name, fields in state["drops"].items()}, state["resume"])

    def _refusal(self, listing: DropListing) -> str:
        try:
            check_drop_name(listing.name)
        except ValueError as error:
            return str(error)
        watched = self.drops.get(listing.name)
        if watched is not None and watched.entry != listing.entry and watched.entry.endswith("/"):
            return f"there is a folder {watched.entry} of the same name: remove one of them"
        return ""

    def _take_in(self, listing: DropListing, now: float, rule: Completeness, found: Observation) -> None:
        watched = self.drops.get(listing.name)
        if watched is None or watched.fingerprint != listing.fingerprint or watched.entry != listing.entry:
            launched = watched.launched if watched is not None else ""
            watched = self.drops[listing.name] = WatchedDrop(listing.fingerprint, now, launched, listing.entry)
        if watched.launched == watched.fingerprint:
            return
        if _complete(listing, watched, now, rule):
            found.ready.append(listing.name)
        else:
            found.waiting.append(listing.name)


def _complete(listing: DropListing, watched: WatchedDrop, now: float, rule: Completeness) -> bool:
    if rule.marker and listing.is_folder:
        if not listing.marked:
            return False
        if not watched.launched:
            return True
    return now - watched.since >= rule.quiet_seconds


def watch_source(source: Storage, watch: DropWatch, rule: Completeness, now: float, seconds: float) -> Observation:
    """Lists a source and takes in what is there, for about `seconds` at most.

    A source that takes longer is listed over several looks, each going on where the last one stopped.

    Args:
        source: where drops arrive.
        watch: the drops seen so far; it is changed.
        rule: when a drop is complete.
        now: seconds since the epoch.
        seconds: after which the look ends with the drop that it is at.
    """
    from_start, names, began = not watch.resume, set(), monotonic()

    def listed() -> Iterator[DropListing]:
        for listing in list_drops(source, watch.resume, rule.marker):
            names.add(listing.name)
            yield listing
            if monotonic() - began > seconds:
                watch.resume = listing.last
                return
        watch.resume = ""

    found = watch.observe(listed(), now, rule)
    if from_start and not watch.resume:
        watch.forget_others(names)
    return found
