"""`rid report`: one page a drop on how its photos look and what protection does to diffusion models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagster_project import exit_codes
from dagster_project.exit_codes import InvalidRequest
from dagster_project.settings import WEIGHTS, registry

if TYPE_CHECKING:
    from assets.drop_report import ReportRequest
    from resources.dask_workers import WorkerSettings

DRAWS = 8


def report(
    target: str,
    *,
    drop: str | None,
    models: list[str],
    photos: int,
    contact_sheet: int,
    seed: int,
    out: str | None,
    workers: WorkerSettings,
) -> int:
    """Runs the command and returns its exit code."""
    from assets.drop_report import report_drop
    from resources.dask_workers import Workers

    requests = build_requests(
        target, drop=drop, models=models, photos=photos, contact_sheet=contact_sheet, seed=seed, out=out
    )
    with Workers(workers) as pool:
        for request in requests:
            made = report_drop(request, pool)
            print(f"drop {request.drop}: {made.url}" + ("" if made.made else " (unchanged)"))
    return exit_codes.OK


def build_requests(
    target: str,
    *,
    drop: str | None,
    models: list[str],
    photos: int,
    contact_sheet: int,
    seed: int,
    out: str | None,
) -> list[ReportRequest]:
    """Returns one request a drop of the target.

    Raises:
        ValueError: if nothing was published there, or the drop is unknown.
    """
    from assets.drop_report import ReportRequest
    from assets.verification import catalog_of, target_table
    from resources.diffusion_sources import diffusion_sources
    from resources.storage import Storage

    table, _ = target_table(target)
    drops = table.drops()
    if drop is not None and drop not in drops:
        raise InvalidRequest(f"{target} has no drop {drop!r}; it has {', '.join(drops) or 'none'}")
    base = Storage(out) if out else Storage(table.url).child("_rid", "_reports")
    requests = []
    for name in drops if drop is None else [drop]:
        catalog = catalog_of(target, name)
        if catalog is None:
            raise InvalidRequest(f"the catalog of drop {name!r} is gone: protect it again, then report")
        requests.append(
            ReportRequest(
                table=table,
                target=Storage(target),
                drop=name,
                catalog=catalog,
                folder=base.child(name),
                models=tuple(diffusion_sources(models, WEIGHTS / "embedded-64")) if models else (),
                photos=photos,
                shown=contact_sheet,
                draws=DRAWS,
                seed=seed,
                find_defender=registry().find,
            )
        )
    return requests
