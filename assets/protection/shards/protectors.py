"""The protectors of a worker process: opened once a defender, policy and budget, whatever shard asks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from rid.models.engines import OnnxEngine
from rid.models.guarded_protector import GuardedProtector
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector
from rid.resources.defender_registry import DefenderEntry, fetch_defender


@dataclass(frozen=True)
class DefenderFile:
    """One ONNX file of a defender: the defender's folder and digest, the file's name and sha256."""

    url: str
    digest: str
    name: str
    sha256: str

    @classmethod
    def of(cls, defender: DefenderEntry) -> DefenderFile:
        """Returns the file that workers need of a registered defender.

        Raises:
            DefenderCorrupt: if it has no ONNX file yet.
        """
        name = defender.onnx_file
        return cls(defender.location, defender.digest, name, defender.config["files"][name])

    def read(self) -> bytes:
        """Returns its bytes.

        Raises:
            DefenderCorrupt: if the file is not the one that was planned.
        """
        return fetch_defender(self.url, self.digest, {self.name: self.sha256})[self.name]


def worker_protector(
    file: DefenderFile, policy: ProtectionPolicy, budget_levels: int, *, guarded: bool
) -> Protector | GuardedProtector:
    """Returns this process's protector.

    Args:
        file: the defender's ONNX file.
        policy: the policy.
        budget_levels: the budget.
        guarded: protect in a child process, under the policy's deadline and limit of memory.

    Raises:
        DefenderCorrupt: if the file is not the one that was planned.
    """
    return (_guarded if guarded else _direct)(file, policy, budget_levels)


@lru_cache(maxsize=1)
def _guarded(file: DefenderFile, policy: ProtectionPolicy, budget_levels: int) -> GuardedProtector:
    return GuardedProtector(file.read, policy, budget_levels, file.digest)


@lru_cache(maxsize=4)
def _direct(file: DefenderFile, policy: ProtectionPolicy, budget_levels: int) -> Protector:
    return Protector(_engine(file), policy, budget_levels, file.digest)


@lru_cache(maxsize=2)
def _engine(file: DefenderFile) -> OnnxEngine:
    return OnnxEngine(file.read())
