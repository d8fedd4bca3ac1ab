"""Sensors and schedules, evaluated as the daemon evaluates them, on a real instance; the webhook is a real server."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from dagster import (
    AssetKey,
    DagsterInstance,
    DagsterRunStatus,
    DefaultSensorStatus,
    Definitions,
    RunRequest,
    SkipReason,
    build_run_status_sensor_context,
    build_schedule_context,
    build_sensor_context,
)
from small_catalogs import write_photos
from tiny_defender import write_tiny_defender

from rid.assets.drop_chain import drop_chain
from rid.assets.partitions import DROPS
from rid.assets.protection_inputs import protection_inputs
from rid.dagster_project.alerts import alert_sensors, message
from rid.dagster_project.automation import drop_sensor, outdated_schedule, promotion_sensor
from rid.dagster_project.deployments import Deployment, deployment
from rid.dagster_project.drop_runs import FIRST, LAST, ONE, busy_drops, run_requests
from rid.dagster_project.drop_watch import Completeness
from rid.dagster_project.jobs import protect_drop
from rid.resources.dask_cluster import DaskCluster
from rid.resources.places import Places
from rid.resources.storage import Storage

RESOURCES = {"places": Places(home="none", weights="none"), "dask": DaskCluster(n_workers=0)}
STOPPED = DefaultSensorStatus.STOPPED


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def stored_instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    """A schedule's context opens its instance itself."""
    (tmp_path / "dagster").mkdir()
    with DagsterInstance.local_temp(str(tmp_path / "dagster"), {"telemetry": {"enabled": False}}) as made:
        yield made


@pytest.fixture
def here(tmp_path: Path) -> Deployment:
    (tmp_path / "source").mkdir()
    write_tiny_defender(tmp_path / "weights" / "default")
    found = deployment({"RID_HOME": str(tmp_path / "home"), "RID_SOURCE": str(tmp_path / "source")})
    places = Places(home=str(tmp_path / "home"), source=str(tmp_path / "source"), weights=str(tmp_path / "weights"))
    return replace(found, places=places, completeness=Completeness("", 0))


class Looks:
    """Evaluates the drop sensor again and again, as the daemon does."""

    def __init__(self, here: Deployment, instance: DagsterInstance) -> None:
        self.here, self.instance, self.cursor = here, instance, None

    def __call__(self):
        context = build_sensor_context(
            instance=self.instance, cursor=self.cursor, resources={"places": self.here.places}
        )
        result = drop_sensor(self.here, STOPPED)(context)
        for request in result.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(DROPS, request.partition_keys)
        self.cursor = result.cursor
        return result


def wanted(requests: list[RunRequest]) -> list[str | tuple[str, str]]:
    return [request.partition_key or (request.tags[FIRST], request.tags[LAST]) for request in requests]


def run(here: Deployment, instance: DagsterInstance, request: RunRequest, **config: object) -> bool:
    definitions = Definitions(
        assets=[protection_inputs, drop_chain],
        jobs=[protect_drop],
        resources={"places": here.places, "dask": DaskCluster(n_workers=0)},
    )
    result = definitions.resolve_job_def("protect_drop").execute_in_process(
        instance=instance,
        partition_key=request.partition_key,
        tags=request.tags,
        run_config={
            "ops": {"drop_chain": {"config": {"report": {"models": []}} | config}},
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        raise_on_error=False,
    )
    return result.success


def test_a_new_drop_becomes_a_partition_and_a_run(here: Deployment, instance: DagsterInstance) -> None:
    look = Looks(here, instance)
    assert "no drop" in str(look().skip_reason) or "none is new" in str(look().skip_reason)
    write_photos(Path(here.places.source) / "monday", 2)
    assert wanted(look().run_requests) == ["monday"]
    assert instance.get_dynamic_partitions(DROPS) == ["monday"]
    cursor = look.cursor
    assert not look().run_requests
    assert look.cursor == cursor, "an unchanged source leaves the cursor as it is"
    for name in ("tuesday", "wednesday", "not allowed"):
        write_photos(Path(here.places.source) / name, 1)
    assert wanted(look().run_requests) == [("tuesday", "wednesday")]
    write_photos(Path(here.places.source) / "monday", 1, first=7)
    assert wanted(look().run_requests) == ["monday"]
    assert "not allowed" in str(look().skip_reason)
    assert len(list(Storage(here.places.home).child("watch").list_files())) <= 2


def test_a_tick_that_was_cut_off_is_repeated(here: Deployment, instance: DagsterInstance) -> None:
    look = Looks(here, instance)
    write_photos(Path(here.places.source) / "monday", 2)
    look()
    before = look.cursor
    write_photos(Path(here.places.source) / "tuesday", 2)
    assert wanted(look().run_requests) == ["tuesday"]
    look.cursor = before  # as if the daemon had died before it launched the run
    assert wanted(look().run_requests) == ["tuesday"]


def test_a_drop_that_is_not_complete_waits(here: Deployment, instance: DagsterInstance) -> None:
    look = Looks(replace(here, completeness=Completeness("_DONE", 0)), instance)
    write_photos(Path(here.places.source) / "monday", 2)
    result = look()
    assert not result.run_requests
    assert "1 of 1 drops are not complete yet: monday" in str(result.skip_reason)
    assert instance.get_dynamic_partitions(DROPS) == []
    (Path(here.places.source) / "monday" / "_DONE").touch()
    assert wanted(look().run_requests) == ["monday"]


def test_a_changed_drop_redoes_only_its_changed_shards(here: Deployment, instance: DagsterInstance) -> None:

    look = Looks(here, instance)
    source = Path(here.places.source) / "monday"
    write_photos(source, 130)
    assert run(here, instance, look().run_requests[0])
    table = here.places.protected_table()
    before = set(table.live_files("monday"))
    write_photos(source, 1, first=200)
    assert run(here, instance, look().run_requests[0])
    after = set(table.live_files("monday"))
    assert len(before) == 3
    assert len(before & after) == 2


def test_promotions_are_observed_once(here: Deployment, instance: DagsterInstance, tmp_path: Path) -> None:
    def observed() -> list[str]:
        context = build_sensor_context(instance=instance, resources={"places": here.places})
        result = promotion_sensor(STOPPED)(context)
        for event in result.asset_events:
            instance.report_runless_asset_event(event)
        return sorted(event.asset_key.to_user_string() for event in result.asset_events)

    assert observed() == ["promoted_defender", "protection_policy"]
    assert observed() == []
    write_tiny_defender(tmp_path / "second", seed=1)
    here.places.registry().promote(str(tmp_path / "second"))
    assert observed() == ["promoted_defender"]
    Storage(here.places.home).write_bytes("policy.json", b'{"budget_levels": 3}')
    assert observed() == ["protection_policy"]
    record = instance.fetch_observations(AssetKey("protection_policy"), limit=1).records[0]
    assert record.asset_observation.metadata["budget, levels"].value == 3


@pytest.mark.slow
def test_the_schedule_protects_what_is_outdated(
    here: Deployment, stored_instance: DagsterInstance, tmp_path: Path
) -> None:
    instance = stored_instance

    def due() -> list | str:
        with build_schedule_context(instance=instance, resources={"places": here.places}) as context:
            result = outdated_schedule(here)(context)
        return str(result.skip_message) if isinstance(result, SkipReason) else wanted(result)

    for name in ("a", "b", "c"):
        write_photos(Path(here.places.source) / name, 1)
    instance.add_dynamic_partitions(DROPS, ["a", "b", "c"])
    assert due() == [("a", "c")]
    assert run(here, instance, RunRequest(partition_key="b"))
    assert due() == ["a", "c"]
    assert run(here, instance, RunRequest(tags={FIRST: "a", LAST: "c"}))
    assert "each of 3 drops is protected" in due()
    write_tiny_defender(tmp_path / "second", seed=1)
    here.places.registry().promote(str(tmp_path / "second"))
    assert due() == [("a", "c")]
    job = Definitions(assets=[protection_inputs, drop_chain], jobs=[protect_drop], resources=RESOURCES)
    instance.create_run_for_job(
        job.resolve_job_def("protect_drop"), status=DagsterRunStatus.NOT_STARTED, tags={ONE: "b"}
    )
    assert busy_drops(instance, ["a", "b", "c"]) == {"b"}
    assert due() == ["a", "c"]


def test_neighbours_share_a_run_up_to_a_number() -> None:
    order = [f"d{i}" for i in range(8)]
    assert wanted(run_requests(["d6", "d0", "d1", "d2", "d4"], order, 2)) == [("d0", "d1"), "d2", "d4", "d6"]
    assert run_requests([], order, 2) == []


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict]]]:
    received: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/alerts", received
    server.shutdown()
    server.server_close()


def test_an_exceeded_failure_budget_is_posted(
    here: Deployment, instance: DagsterInstance, webhook: tuple[str, list[dict]]
) -> None:
    url, received = webhook
    write_photos(Path(here.places.source) / "monday", 1)
    (Path(here.places.source) / "monday" / "anna-private.jpg").write_bytes(b"no picture")
    instance.add_dynamic_partitions(DROPS, ["monday"])
    policy = json.dumps({"max_quarantined": 0, "max_quarantined_share": 0.1})
    assert not run(here, instance, RunRequest(partition_key="monday"), policy_json=policy)
    (record,) = instance.get_run_records()
    events = [entry.dagster_event for entry in instance.all_logs(record.dagster_run.run_id)]
    failure = next(event for event in events if event is not None and event.is_run_failure)
    context = build_run_status_sensor_context(
        sensor_name="post_failures", dagster_event=failure, dagster_instance=instance, dagster_run=record.dagster_run
    ).for_run_failure()
    (sensor,) = alert_sensors(replace(here, webhook=url), STOPPED)
    sensor(context)
    (posted,) = received
    assert posted == message(context)
    assert posted["failure_budget_exceeded"]
    assert "failure budget exceeded in protect_drop" in posted["text"]
    assert "1 of 2 photos are quarantined (1 unsupported_format)" in posted["text"]
    assert "anna" not in json.dumps(posted)
