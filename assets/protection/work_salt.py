"""The work salt: all that decides a protected photo beside its original."""

from __future__ import annotations

import json

from rid.assets.protection.shards.files import TargetKind
from rid.assets.protection.shards.task import CODE_EPOCH
from rid.models.policy import ProtectionPolicy
from rid.resources.defender_registry import DefenderEntry


def work_salt(defender: DefenderEntry, policy: ProtectionPolicy, budget_levels: int, target_kind: TargetKind) -> str:
    """Returns it as text, which is part of every work key and recorded in every shard file."""
    parts = {
        "defender": defender.digest,
        "policy": policy.digest(),
        "budget_levels": budget_levels,
        "target_kind": target_kind,
        "code_epoch": CODE_EPOCH,
    }
    return json.dumps(parts, sort_keys=True)
