"""`rid protect`: protects a folder, a prefix or a Parquet catalog."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rid.dagster_project import exit_codes
from rid.dagster_project.exit_codes import InvalidRequest
from rid.dagster_project.progress_bar import ProgressBar
from rid.dagster_project.settings import rid_home

if TYPE_CHECKING:
    from rid.assets.protection.options import ProtectionOptions
    from rid.assets.protection.request import ProtectionRequest
    from rid.assets.protection.summary import DropSummary
    from rid.models.policy import ProtectionPolicy
    from rid.resources.dask_workers import WorkerSettings


@dataclass(frozen=True)
class Printing:
    """Ways of showing a run.

    Attributes:
        dry_run: only say what would be done.
        as_json: print JSON on stdout.
    """

    dry_run: bool
    as_json: bool


def protect(
    source: str,
    target: str,
    drop: str | None,
    options: ProtectionOptions,
    workers: WorkerSettings,
    printing: Printing,
) -> int:
    """Runs the command and returns its exit code."""
    from rid.assets.protection.run import run_drop
    from rid.assets.protection.summary import to_json
    from rid.resources.dask_workers import Workers

    request = build_request(source, target, drop, options)
    if printing.dry_run:
        _say(estimate(request, workers), printing.as_json)
        return exit_codes.OK
    with Workers(workers) as pool, ProgressBar(quiet=printing.as_json) as bar:
        summary = run_drop(request, pool, lambda progress: bar.show(progress.stage, progress.done, progress.total))
    if printing.as_json:
        print(json.dumps(to_json(summary)))
    else:
        print(describe(summary, request))
    return exit_codes.QUARANTINED if summary.quarantined else exit_codes.OK


def build_request(source: str, target: str, drop: str | None, options: ProtectionOptions) -> ProtectionRequest:
    """Checks what was asked and pins it to one defender.

    Raises:
        ValueError: with one sentence, if it cannot be done.
        FileNotFoundError: if there is nothing at SOURCE.
    """
    from rid.assets.protection.request import protection_request
    from rid.assets.protection.targets import new_target
    from rid.resources.storage import Storage

    origin = Storage(source)
    return protection_request(options, origin, new_target(origin, Storage(target)), drop, rid_home())


def read_policy(file: Path | None) -> ProtectionPolicy | None:
    """Reads the policy of `--policy FILE`; None if none was given.

    Raises:
        InvalidRequest: if the file cannot be read.
        ValueError: if it holds no policy.
    """
    from rid.models.policy import ProtectionPolicy

    if file is None:
        return None
    try:
        return ProtectionPolicy.from_json(file.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"the policy file {file} cannot be read: {error.strerror}") from error


def estimate(request: ProtectionRequest, workers: WorkerSettings) -> dict[str, Any]:
    """Counts photos and bytes, and protects one photo in memory to estimate the time on this machine."""
    from rid.assets.catalog.picture_columns import check_first_rows
    from rid.models.engines import OnnxEngine
    from rid.models.photo_files.images import PhotoRefused
    from rid.models.protector import Protector
    from rid.resources.catalogs import list_source
    from rid.resources.defender_registry import fetch_defender
    from rid.resources.local_clusters import cores

    listing = list_source(request.source)
    request.columns.of(listing)
    check_first_rows(listing, request.columns)
    name = request.defender.onnx_file
    model = fetch_defender(
        request.defender.location, request.defender.digest, {name: request.defender.config["files"][name]}
    )
    protector = Protector(OnnxEngine(model[name]), request.policy, request.budget_levels)
    result: dict[str, Any] = {
        "source": request.source.url,
        "target": request.target.url,
        "target_kind": request.target.kind,
        "drop": request.drop,
        "bytes": sum(entry.size for entry in listing.files),
        "sidecars": len(listing.sidecars),
        "ignored": listing.ignored,
        "engine": protector.engine.name,
        "defender": request.defender.name,
        "defender_digest": request.defender.digest,
        "budget_levels": request.budget_levels,
    }
    photos, sample = _count_and_sample(listing, request.allowed_prefixes)
    began = time.perf_counter()
    try:
        protector.protect(sample)
        protector.protect(sample)
        seconds = (time.perf_counter() - began) / 2
    except PhotoRefused:
        seconds = time.perf_counter() - began
    processes = workers.n_workers or cores()
    return result | {
        "photos": photos,
        "seconds_estimated": round(photos * seconds / processes, 3),
        "workers": processes,
    }


def _count_and_sample(listing: Any, allowed_prefixes: tuple[str, ...]) -> tuple[int, bytes]:
    """Returns the number of photos and the bytes of one."""
    from rid.assets.catalog.sources import iter_parquet_photos
    from rid.assets.catalog.uris import read_uri, with_own_prefix
    from rid.resources.catalogs import open_parquet

    base = listing.base
    if not listing.files:
        raise InvalidRequest(f"{base.url} holds no photos: give a folder or prefix with images, or Parquet")
    if listing.kind == "files":
        return len(listing.files), base.read_bytes(
            sorted(listing.files, key=lambda e: e.size)[len(listing.files) // 2].path
        )
    photos, sample = 0, b""
    for entry in listing.files:
        with base.open(entry.path) as file:
            photos += open_parquet(file).metadata.num_rows
            if not sample:
                for stored, _ in iter_parquet_photos(file, 0, listing.layout):
                    with contextlib.suppress(OSError, ValueError):  # a photo that cannot be read is no sample
                        read = stored.uri and read_uri(stored.uri, with_own_prefix(base, allowed_prefixes))
                        sample = stored.data or read or b""
                    break
    return photos, sample


def describe(summary: DropSummary, request: ProtectionRequest) -> str:
    """Returns what a person reads at the end."""
    held = sum(summary.quarantined.values())
    lines = [
        f"{summary.photos} photos: {summary.protected} protected, {summary.skipped} skipped, {held} quarantined",
        *(f"  {count} {reason}" for reason, count in summary.quarantined.items()),
        f"protected photos  {request.target.url}",
        f"receipts          {request.target.receipts.url} (drop {request.drop})",
        f"defender          {request.defender.name} {request.defender.digest[:12]}",
        f"budget            {request.budget_levels} of 255 levels",
        f"this run          {summary.photos_computed} photos in {summary.seconds:.1f} s, {summary.shards_written} of "
        f"{summary.shards} shards written" + ("" if summary.committed else ", nothing to commit"),
    ]
    if summary.sidecars:
        lines.append(f"{summary.sidecars} sidecars (XMP files beside photos) went along")
    if summary.ignored:
        lines.append(f"{summary.ignored} files of the source are no photos and were ignored")
    return "\n".join(lines)


def _say(values: dict[str, Any], as_json: bool) -> None:
    print(json.dumps(values) if as_json else "\n".join(f"{name:18} {value}" for name, value in values.items()))
