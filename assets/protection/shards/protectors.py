"""The protectors of a worker process: opened once a defender, policy and budget, whatever shard asks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from rid.models.engines import OnnxEngine
from rid.models.guarded_protector import GuardedProtector
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector
from rid.resources.defender_registry import fetch_defender


@dataclass(frozen=True)
class DefenderFile:
    """One ONNX file of a defender: the defender's folder and digest, the file's name and sha256."""

    url: str
    digest: str
    name: str
    sha256: str

    def read(self) -> bytes:
        """Returns its bytes.

        Raises:
            DefenderCorrupt: if the file is not the one that was planned.
        """
        return fetch_defender(self.url, self.digest, {self.name: self.sha256})[self.name]


def worker_protector(
    file: DefenderFile, policy_json: str, budget_levels: int, *, guarded: bool
) -> Protector | GuardedProtector:
    """Returns this process's protector.

    Args:
        file: the defender's ONNX file.
        policy_json: the policy.
        budget_levels: the budget.
        guarded: protect in a child process, under the policy's deadline and limit of memory.

    Raises:
        DefenderCorrupt: if the file is not the one that was planned.
    """
    return (_guarded if guarded else _direct)(file, policy_json, budget_levels)


@lru_cache(maxsize=1)
def _guarded(file: DefenderFile, policy_json: str, budget_levels: int) -> GuardedProtector:
    return GuardedProtector(file.read, ProtectionPolicy.from_json(policy_json), budget_levels, file.digest)


@lru_cache(maxsize=4)
def _direct(file: DefenderFile, policy_json: str, budget_levels: int) -> Protector:
    return Protector(_engine(file), ProtectionPolicy.from_json(policy_json), budget_levels, file.digest)


@lru_cache(maxsize=2)
def _engine(file: DefenderFile) -> OnnxEngine:
    return OnnxEngine(file.read())
