"""The Dagster resource for Dask: the same workers that `rid protect` uses, from run configuration."""

from __future__ import annotations

from dagster import ConfigurableResource
from pydantic import Field

from rid.resources.dask_workers import Workers, WorkerSettings


class DaskCluster(ConfigurableResource):  # type: ignore[type-arg]
    """The workers of an asset's tasks: embedded ones by default, or those of a running scheduler.

    Assets submit tasks inside their own step: executors that run steps on Dask share step keys between runs.
    """

    scheduler: str | None = Field(
        default=None, description="Address of a Dask scheduler, such as tls://host:8786; empty starts workers here."
    )
    n_workers: int | None = Field(
        default=None, description="Embedded worker processes; empty is one a core, 0 this process."
    )
    allow_insecure: bool = Field(
        default=False, description="Accept a scheduler on another machine without TLS: whoever reaches it can run code."
    )
    use_gpus: bool = Field(default=True, description="One embedded worker a GPU, if GPUs and dask_cuda are present.")

    def settings(self) -> WorkerSettings:
        """The plain settings, which can be pickled.

        Raises:
            InsecureScheduler: see `rid.resources.dask_workers.check_scheduler`.
        """
        return WorkerSettings(
            scheduler=self.scheduler or None,
            n_workers=self.n_workers,
            allow_insecure=self.allow_insecure,
            use_gpus=self.use_gpus,
        )

    def connect(self) -> Workers:
        """Workers that start with the first task; a context manager."""
        return Workers(self.settings())
