"""The Dagster resource that says where a deployment keeps things."""

from __future__ import annotations

from pathlib import Path

from dagster import ConfigurableResource
from pydantic import Field

from rid.resources.commits import ProtectedTable
from rid.resources.defender_registry import DefenderRegistry
from rid.resources.rid_home import RidHome
from rid.resources.schemas import check_drop_name
from rid.resources.storage import Storage


class Places(ConfigurableResource):  # type: ignore[type-arg]
    """RID_HOME, where drops arrive, and the shipped weights."""

    home: str = Field(description="RID_HOME: a folder or an s3 prefix for catalogs, defenders and protected photos.")
    source: str = Field(default="", description="RID_SOURCE: drop d is <source>/d/ or <source>/d.parquet.")
    weights: str = Field(description="Folder of the shipped weights.")
    reports_url: str = Field(default="", description="Where a web server shows the reports; empty links to the files.")

    def rid_home(self) -> RidHome:
        """RID_HOME with what lies in it."""
        return RidHome(Storage(self.home), Path(self.weights))

    def registry(self) -> DefenderRegistry:
        """The defenders under RID_HOME and those that ship."""
        return self.rid_home().registry()

    def protected_table(self) -> ProtectedTable:
        """The table of protected photos."""
        return self.rid_home().protected_table()

    def reports(self, drop: str) -> Storage:
        """Returns the folder of a drop's report."""
        return self.rid_home().reports(drop)

    def report_link(self, drop: str) -> str:
        """Address of a drop's report, whether it was made yet or not: a web address, a path or an s3:// URL."""
        page = "index.html"
        return f"{self.reports_url.rstrip('/')}/{drop}/{page}" if self.reports_url else self.reports(drop).uri(page)

    def drop_source(self, drop: str) -> Storage:
        """A drop's photos: a folder or prefix, or a Parquet file.

        Raises:
            ValueError: if RID_SOURCE is not set.
            FileNotFoundError: if there is neither a folder nor a Parquet file of that name.
        """
        check_drop_name(drop)
        if not self.source:
            raise ValueError("RID_SOURCE is not set: set it to the folder or prefix in which drops arrive")
        source = Storage(self.source)
        folder = source.child(drop)
        if folder.is_folder():
            return folder
        if source.exists(f"{drop}.parquet"):
            return source.child(f"{drop}.parquet")
        raise FileNotFoundError(f"drop {drop!r} is neither {folder.url}/ nor {folder.url}.parquet")
