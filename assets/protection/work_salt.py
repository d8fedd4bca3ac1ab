"""The work salt: all that decides a protected photo beside its original."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rid.assets.protection.shards.files import TargetKind
from rid.assets.protection.shards.task import CODE_EPOCH
from rid.models.policy import ProtectionPolicy
from rid.resources.defender_registry import DefenderEntry


def work_salt(
    defender: DefenderEntry,
    policy: ProtectionPolicy,
    budget_levels: int,
    target_kind: TargetKind,
    image_columns: Sequence[str] = (),
) -> str:
    """Returns it as text, which is part of every work key and recorded in every shard file.

    Args:
        defender: what protects.
        policy: the policy.
        budget_levels: the budget.
        target_kind: of the target.
        image_columns: columns whose pictures are protected with the row's photo; without any, they are not in the text.
    """
    parts: dict[str, object] = {
        "defender": defender.digest,
        "policy": policy.digest(),
        "budget_levels": budget_levels,
        "target_kind": target_kind,
        "code_epoch": CODE_EPOCH,
    }
    if image_columns:
        parts["image_columns"] = sorted(set(image_columns))
    return json.dumps(parts, sort_keys=True)
