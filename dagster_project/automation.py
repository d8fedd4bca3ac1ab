"""Automation: drops are noticed, promotions observed, outdated drops protected, failures told."""

from __future__ import annotations

import hashlib
import time

from dagster import (
    DefaultScheduleStatus,
    DefaultSensorStatus,
    RunRequest,
    ScheduleDefinition,
    ScheduleEvaluationContext,
    SensorDefinition,
    SensorEvaluationContext,
    SensorResult,
    SkipReason,
    schedule,
    sensor,
)

from rid.assets.partitions import DROPS, drops
from rid.assets.protection.options import ProtectionOptions, protection_settings
from rid.assets.protection_inputs import observations
from rid.dagster_project.alerts import alert_sensors
from rid.dagster_project.deployments import Deployment
from rid.dagster_project.drop_runs import outdated_drops, run_requests
from rid.dagster_project.drop_watch import DropWatch, Observation, watch_source
from rid.dagster_project.jobs import protect_drop
from rid.resources.places import Places
from rid.resources.storage import Storage

DROPS_PER_RUN = 64
NAMED = 5  # entries that a tick names
LOOK_SECONDS, OBSERVE_SECONDS = 30, 60


def sensors(deployment: Deployment) -> list[SensorDefinition]:
    """All sensors of a deployment."""
    status = DefaultSensorStatus.RUNNING if deployment.automation else DefaultSensorStatus.STOPPED
    return [drop_sensor(deployment, status), promotion_sensor(status), *alert_sensors(deployment, status)]


def drop_sensor(deployment: Deployment, status: DefaultSensorStatus) -> SensorDefinition:
    """Notices drops."""

    @sensor(
        name="new_drops",
        job=protect_drop,
        minimum_interval_seconds=LOOK_SECONDS,
        default_status=status,
        description="Lists RID_SOURCE, adds each complete new drop as a partition and protects it; a drop that changed "
        "since is protected again, and only its changed shards are redone.",
    )
    def new_drops(context: SensorEvaluationContext, places: Places) -> SensorResult:
        if not places.source:
            return SensorResult(skip_reason="RID_SOURCE is not set: no place to look for drops")
        states = WatchStates(places)
        watch = states.read(context.cursor)
        found = watch_source(
            Storage(places.source), watch, deployment.completeness, time.time(), deployment.scan_seconds
        )
        watch.launched(found.ready)
        cursor = states.write(watch, keep=context.cursor)
        known = context.instance.get_dynamic_partitions(DROPS)
        new = [name for name in found.ready if name not in set(known)]
        return SensorResult(
            run_requests=run_requests(found.ready, [*known, *new], DROPS_PER_RUN),
            dynamic_partitions_requests=[drops.build_add_request(new)] if new else [],
            skip_reason=None if found.ready else _nothing(found, len(watch.drops), watch.resume),
            cursor=cursor,
        )

    return new_drops


def promotion_sensor(status: DefaultSensorStatus) -> SensorDefinition:
    """Notices promotions and new policies."""

    @sensor(
        name="promotions",
        minimum_interval_seconds=OBSERVE_SECONDS,
        default_status=status,
        description="Observes which defender is promoted and which policy holds; drops made with others are stale.",
    )
    def promotions(context: SensorEvaluationContext, places: Places) -> SensorResult:
        events = observations(protection_settings(ProtectionOptions(), places.rid_home()), context.instance)
        reason = None if events else "the promoted defender and the policy are those that were observed last"
        return SensorResult(asset_events=events, skip_reason=reason)

    return promotions


def outdated_schedule(deployment: Deployment) -> ScheduleDefinition:
    """Protects what is not protected as it should be."""

    @schedule(
        name="protect_outdated",
        job=protect_drop,
        cron_schedule=deployment.cron,
        execution_timezone=deployment.timezone,
        default_status=DefaultScheduleStatus.RUNNING if deployment.automation else DefaultScheduleStatus.STOPPED,
        description="Protects every drop that is unprotected, changed, or protected by a defender or under a policy "
        "that does not hold any more.",
    )
    def protect_outdated(context: ScheduleEvaluationContext, places: Places) -> list[RunRequest] | SkipReason:
        settings = protection_settings(ProtectionOptions(), places.rid_home())
        names = outdated_drops(context.instance, settings)
        order = context.instance.get_dynamic_partitions(DROPS)
        if not names:
            return SkipReason(f"each of {len(order)} drops is protected by {settings.defender.name}, or a run is at it")
        return run_requests(names, order, DROPS_PER_RUN)

    return protect_outdated


class WatchStates:
    """Keeps the state of the drop sensor under RID_HOME, named by its content.

    The sensor's cursor is that name, since Dagster stores the cursor with every tick. Dagster sets the cursor once it
    has launched the runs of a tick: a tick that is cut off before is repeated from the state before it.
    """

    def __init__(self, places: Places) -> None:
        self._storage = Storage(places.home).child("watch")

    def read(self, cursor: str | None) -> DropWatch:
        """The state that a cursor names; an empty one if it is gone, so that finished drops cost a listing each."""
        if cursor:
            try:
                return DropWatch.from_json(self._storage.read_bytes(f"{cursor}.json"))
            except FileNotFoundError:
                pass
        return DropWatch()

    def write(self, watch: DropWatch, keep: str | None) -> str:
        """Writes a state and returns its name; others but `keep` are deleted."""
        data = watch.to_json().encode()
        name = hashlib.sha256(data).hexdigest()[:32]
        if name == keep:
            return name
        self._storage.write_bytes(f"{name}.json", data)
        for entry in list(self._storage.list_files()):
            if entry.path not in (f"{name}.json", f"{keep}.json"):
                self._storage.discard(entry.path)
        return name


def _nothing(found: Observation, known: int, resume: str) -> str:
    """Says why a tick launches nothing."""
    parts = [f"{known} drops are known, none is new or changed"]
    if found.waiting:
        parts = [f"{len(found.waiting)} of {known} drops are not complete yet: {_some(found.waiting)}"]
    if found.refused:
        parts.append(f"{len(found.refused)} entries are no drops: {_some(list(found.refused.values()))}")
    if resume:
        parts.append("the source is large: the next look goes on where this one stopped")
    return "; ".join(parts)


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
