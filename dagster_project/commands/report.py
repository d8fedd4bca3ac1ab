"""`rid report`: a page a drop on how photos look and what protection does to diffusion models and latent spaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rid.dagster_project import exit_codes
from rid.dagster_project.exit_codes import InvalidRequest
from rid.dagster_project.settings import WEIGHTS, rid_home

if TYPE_CHECKING:
    from rid.assets.reports.drop_report import ReportRequest
    from rid.resources.dask_workers import WorkerSettings

DRAWS = 8


@dataclass(frozen=True)
class ReportOptions:
    """The options of a report; see `rid.assets.reports.drop_report.ReportRequest`.

    Attributes:
        drop: one drop, or None for each.
        models: folders, hub ids, or "embedded".
        spaces: latent spaces: short names, folders, hub ids, or "embedded".
        photos: protected photos that are measured.
        contact_sheet: photos on the contact sheet.
        seed: of the sample, the time steps and the noise.
        out: folder or prefix, or None for a folder inside the target.
    """

    drop: str | None
    models: tuple[str, ...]
    spaces: tuple[str, ...]
    photos: int
    contact_sheet: int
    seed: int
    out: str | None


def report(target: str, options: ReportOptions, workers: WorkerSettings) -> int:
    """Runs the command and returns its exit code."""
    from rid.assets.reports.drop_report import report_drop
    from rid.resources.dask_workers import Workers

    requests = build_requests(target, options)
    with Workers(workers) as pool:
        for request in requests:
            made = report_drop(request, pool)
            print(f"drop {request.drop}: {made.url}" + ("" if made.made else " (unchanged)"))
    return exit_codes.OK


def build_requests(target: str, options: ReportOptions) -> list[ReportRequest]:
    """Returns one request a drop of the target.

    Raises:
        ValueError: if nothing was published there, or the drop is unknown.
    """
    from rid.assets.protection.targets import find_target
    from rid.assets.reports.drop_report import ReportRequest
    from rid.resources.frozen.diffusion_sources import diffusion_sources
    from rid.resources.frozen.latent_spaces import space_sources
    from rid.resources.storage import Storage

    found = find_target(target)
    table = found.receipts
    drops = table.drops()
    if options.drop is not None and options.drop not in drops:
        raise InvalidRequest(f"{target} has no drop {options.drop!r}; it has {', '.join(drops) or 'none'}")
    base = Storage(options.out) if options.out else table.storage.child("_rid", "_reports")
    models = tuple(diffusion_sources(options.models, WEIGHTS / "embedded-64")) if options.models else ()
    spaces = tuple(space_sources(options.spaces, WEIGHTS / "embedded-64")) if options.spaces else ()
    requests = []
    for name in drops if options.drop is None else [options.drop]:
        catalog = found.current(name)
        if catalog is None:
            raise InvalidRequest(f"the catalog of drop {name!r} is gone: protect it again, then report")
        requests.append(
            ReportRequest(
                table=table,
                target=found.storage,
                drop=name,
                catalog=catalog,
                folder=base.child(name),
                models=models,
                spaces=spaces,
                photos=options.photos,
                shown=options.contact_sheet,
                draws=DRAWS,
                seed=options.seed,
                find_defender=rid_home().registry().find,
            )
        )
    return requests
