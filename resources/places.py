"""The Dagster resource that says where a deployment keeps things."""

from __future__ import annotations

from pathlib import Path

from dagster import ConfigurableResource
from pydantic import Field

from rid.resources.defender_registry import DefenderRegistry
from rid.resources.schemas import check_drop_name
from rid.resources.storage import Storage

POLICY = "policy.json"


class Places(ConfigurableResource):  # type: ignore[type-arg]
    """RID_HOME, where drops arrive, and the shipped weights."""

    home: str = Field(description="RID_HOME: a folder or an s3 prefix for catalogs, defenders and protected photos.")
    source: str = Field(default="", description="RID_SOURCE: drop d is <source>/d/ or <source>/d.parquet.")
    weights: str = Field(description="Folder of the shipped weights.")
    reports_url: str = Field(default="", description="Where a web server shows the reports; empty links to the files.")

    def registry(self) -> DefenderRegistry:
        """The defenders under RID_HOME and those that ship."""
        return DefenderRegistry(self.home, Path(self.weights))

    def protected_table(self) -> str:
        """URL of the table of protected photos."""
        return f"{Storage(self.home).url}/protected"

    def policy_json(self) -> str:
        """The deployment's protection policy, `policy.json` under RID_HOME; "{}" if there is none."""
        try:
            return Storage(self.home).read_bytes(POLICY).decode()
        except FileNotFoundError:
            return "{}"

    def reports(self, drop: str) -> Storage:
        """Returns the folder of a drop's report."""
        return Storage(self.home).child("reports", check_drop_name(drop))

    def report_link(self, drop: str) -> str:
        """Address of a drop's report, whether it was made yet or not: a web address, a path or an s3:// URL."""
        page = "index.html"
        return f"{self.reports_url.rstrip('/')}/{drop}/{page}" if self.reports_url else self.reports(drop).uri(page)

    def drop_source(self, drop: str) -> str:
        """URL of a drop's photos.

        Raises:
            ValueError: if RID_SOURCE is not set.
            FileNotFoundError: if there is neither a folder nor a Parquet file of that name.
        """
        check_drop_name(drop)
        if not self.source:
            raise ValueError("RID_SOURCE is not set: set it to the folder or prefix in which drops arrive")
        folder = Storage(self.source).child(drop)
        if folder.is_folder():
            return folder.url
        if Storage(self.source).exists(f"{drop}.parquet"):
            return f"{folder.url}.parquet"
        raise FileNotFoundError(f"drop {drop!r} is neither {folder.url}/ nor {folder.url}.parquet")
