"""The failure budget: beyond it something is wrong with the source, not with a photo, and the run stops."""

from __future__ import annotations

from collections import Counter

from rid.models.policy import ProtectionPolicy
from rid.resources.schemas import Status


class FailureBudgetExceeded(RuntimeError):
    """More photos are quarantined than the policy allows; what is done stays and a new run goes on from it.

    Attributes:
        photos: of the drop.
        quarantined: of them, so far.
    """

    def __init__(self, message: str, photos: int, quarantined: int) -> None:
        super().__init__(message)
        self.photos = photos
        self.quarantined = quarantined


def exceeds(policy: ProtectionPolicy, quarantined: int, photos: int) -> bool:
    """Says whether a number of quarantined photos is above the budget."""
    return quarantined > policy.max_quarantined and quarantined > policy.max_quarantined_share * photos


def check_failure_budget(policy: ProtectionPolicy, outcomes: Counter[str], photos: int) -> None:
    """Stops a run that is above the budget.

    Args:
        policy: the run's.
        outcomes: rows so far, by `rid.assets.protection.shards.outcomes.outcome_names`.
        photos: of the drop.

    Raises:
        FailureBudgetExceeded: saying for which reasons photos were quarantined.
    """
    quarantined = outcomes[Status.QUARANTINED.value]
    if exceeds(policy, quarantined, photos):
        reasons = ", ".join(
            f"{n} {name.partition(':')[2]}" for name, n in outcomes.most_common() if name.startswith("quarantined:")
        )
        raise FailureBudgetExceeded(
            f"stopped: {quarantined} of {photos} photos are quarantined ({reasons}), more than the failure budget of "
            f"{policy.max_quarantined_share:.0%}; what is done is kept: mend the source or raise max_quarantined_share",
            photos,
            quarantined,
        )
