"""RID_HOME: what a deployment keeps for itself, found in the same places by the assets and by `rid`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rid.resources.commits import ProtectedTable
from rid.resources.defender_registry import DefenderRegistry
from rid.resources.schemas import check_drop_name
from rid.resources.storage import Storage

POLICY = "policy.json"


@dataclass(frozen=True)
class RidHome:
    """RID_HOME and the weights that ship.

    Attributes:
        storage: RID_HOME, a folder or an s3 prefix.
        weights: folder of the shipped weights.
    """

    storage: Storage
    weights: Path

    def registry(self) -> DefenderRegistry:
        """The defenders under RID_HOME and those that ship."""
        return DefenderRegistry(self.storage, self.weights)

    def protected_table(self) -> ProtectedTable:
        """The table of the photos that the assets protect."""
        return ProtectedTable(self.storage.child("protected"))

    def policy_json(self) -> bytes | None:
        """The deployment's protection policy, `policy.json`; None if there is none."""
        try:
            return self.storage.read_bytes(POLICY)
        except FileNotFoundError:
            return None

    def reports(self, drop: str) -> Storage:
        """Folder of a drop's report.

        Raises:
            ValueError: if no drop may have that name.
        """
        return self.storage.child("reports", check_drop_name(drop))
