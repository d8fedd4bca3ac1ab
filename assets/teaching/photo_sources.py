"""Catalogues photos that a training reads from where they lie, without a drop of Dagster's."""

from __future__ import annotations

from collections.abc import Sequence

from rid.assets.catalog.index import index_source
from rid.assets.catalog.plan import DropCatalog, read_catalog, read_current, write_catalog
from rid.assets.protection.request import default_drop_name
from rid.assets.teaching.progress import Progress, Report, silent
from rid.resources.dask_workers import Workers
from rid.resources.storage import Storage


def catalogue_sources(
    state: Storage, sources: Sequence[Storage], workers: Workers, report: Report = silent
) -> dict[str, DropCatalog]:
    """Returns the catalogs of some sources, in order; what did not change is not read again.

    Args:
        state: folder of the catalogs.
        sources: Parquet files, or folders of photos or of Parquet files.
        workers: where photos are read.
        report: called as photos are read.

    Raises:
        FileNotFoundError: if there is nothing at a source.
        ValueError: if a source holds no photos or has columns that cannot be carried, or is named twice.
    """
    catalogs: dict[str, DropCatalog] = {}
    for source in sources:
        drop, read = default_drop_name(source), 0
        if drop in catalogs:
            raise ValueError(f"the photos {source.url} are named twice: name each file or folder once")
        previous = read_current(state, drop)

        def on_read(count: int, known: int = previous.photos if previous else 0) -> None:
            nonlocal read
            read += count
            report(Progress("read photos", read, max(read, known)))

        known = read_catalog(previous) if previous is not None else None
        index = index_source(source, workers, previous=known, progress=on_read)
        catalogs[drop] = write_catalog(state, drop, index, previous)
    return catalogs
