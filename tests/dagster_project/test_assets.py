from pathlib import Path

import pytest
from dagster import (
    AssetCheckKey,
    AssetKey,
    AssetRecordsFilter,
    DagsterEventType,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    materialize,
)
from odd_photos import encoded, photograph
from small_catalogs import write_photos
from tiny_defender import write_tiny_defender

from rid.assets.checks import LOOK, WHAT
from rid.assets.defender import defender
from rid.assets.defender_onnx import defender_onnx
from rid.assets.drop_chain import FAILED_DROPS, drop_chain
from rid.assets.partitions import DROPS
from rid.assets.protection_inputs import protection_inputs
from rid.assets.teacher_perturbations import teacher_perturbations
from rid.dagster_project.drop_runs import FIRST, LAST, outdated_drops
from rid.dagster_project.jobs import protect_drop
from rid.resources.dask_cluster import DaskCluster
from rid.resources.places import Places
from rid.resources.storage import Storage

HERE = DaskCluster(n_workers=0)
QUIET = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}


@pytest.fixture
def places(tmp_path: Path) -> Places:
    folder = tmp_path / "source" / "monday"
    folder.mkdir(parents=True)
    for index in range(3):
        (folder / f"{index}.jpg").write_bytes(encoded(photograph(seed=index)))
    (folder / "graphic.png").write_bytes(encoded(photograph(), "PNG"))
    (folder / "broken.jpg").write_bytes(encoded(photograph())[:500])
    write_tiny_defender(tmp_path / "weights" / "default")
    Storage(str(tmp_path / "home")).write_bytes("policy.json", b'{"max_visible_share": 1}')  # its blocks are seen
    return Places(home=str(tmp_path / "home"), source=str(tmp_path / "source"), weights=str(tmp_path / "weights"))


@pytest.fixture
def instance():
    with DagsterInstance.ephemeral() as made:
        yield made


def definitions(places: Places) -> Definitions:
    return Definitions(
        assets=[protection_inputs, drop_chain], jobs=[protect_drop], resources={"places": places, "dask": HERE}
    )


def run(
    instance: DagsterInstance, places: Places, *drops: str, assets: list[str] | None = None, **config: object
) -> ExecuteInProcessResult:
    """Runs the chain over one drop, or over all from the first to the second."""
    where = {"partition_key": drops[0]} if len(drops) == 1 else {"tags": {FIRST: drops[0], LAST: drops[1]}}
    chain = {"ops": {"drop_chain": {"config": {"report": {"models": []}} | config}}}
    return (
        definitions(places)
        .resolve_job_def("protect_drop")
        .execute_in_process(
            instance=instance,
            run_config=chain | QUIET,
            raise_on_error=False,
            asset_selection=[AssetKey(name) for name in assets] if assets else None,
            **where,
        )
    )


def made(result: ExecuteInProcessResult) -> list[tuple[str, str | None]]:
    return [
        (event.asset_key.to_user_string(), event.partition)
        for event in result.all_events
        if event.event_type == DagsterEventType.ASSET_MATERIALIZATION
    ]


def outcomes(result: ExecuteInProcessResult) -> dict[tuple[str, str | None], bool]:
    found = [
        event.event_specific_data
        for event in result.all_events
        if event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION
    ]
    return {(evaluation.check_name, evaluation.partition): evaluation.passed for evaluation in found}


def metadata(result: ExecuteInProcessResult, asset: str) -> dict[str, object]:
    (found,) = [
        event.event_specific_data.materialization.metadata
        for event in result.all_events
        if event.event_type == DagsterEventType.ASSET_MATERIALIZATION and event.asset_key == AssetKey(asset)
    ]
    return {name: value.value for name, value in found.items()}


def test_a_drop_is_catalogued_protected_checked_and_reported_and_then_left_alone(
    instance: DagsterInstance, places: Places
) -> None:
    instance.add_dynamic_partitions(DROPS, ["monday"])
    first = run(instance, places, "monday")
    assert made(first) == [(name, "monday") for name in ("photo_catalog", "protected_catalog", "protection_report")]
    assert outcomes(first) == {(name, "monday"): True for name in WHAT}
    shown = metadata(first, "protected_catalog")
    assert (shown["photos"], shown["protected"], shown["quarantined"]) == (5, 4, 1)
    assert [row.data for row in shown["quarantine"].records] == [{"reason": "truncated", "photos": 1, "share": "20.0%"}]
    assert shown["look"].startswith("![look](data:image/png;base64,")
    assert {"image", "output_sha256"} <= {column.name for column in shown["dagster/column_schema"].columns}
    for asset in ("photo_catalog", "protected_catalog", "protection_report"):
        assert metadata(first, asset)["report"] == places.report_link("monday")
    before = {entry.path: entry.identity for entry in Storage(places.home).list_files()}
    second = run(instance, places, "monday")
    assert second.success
    assert outcomes(second) == {(name, "monday"): True for name in WHAT}
    assert metadata(second, "protected_catalog")["look"] == metadata(first, "protection_report")["look"]
    assert {entry.path: entry.identity for entry in Storage(places.home).list_files()} == before


def test_a_drop_that_fails_stops_no_other_and_is_retried_alone(instance: DagsterInstance, places: Places) -> None:
    source = Path(places.source)
    for name in ("tuesday", "wednesday"):
        write_photos(source / name, 2)
    (source / "tuesday" / "mixed.parquet").write_bytes(b"PAR1")
    instance.add_dynamic_partitions(DROPS, ["monday", "tuesday", "wednesday"])
    result = run(instance, places, "monday", "wednesday")
    assert not result.success
    assert {drop for _, drop in made(result)} == {"monday", "wednesday"}
    assert len(made(result)) == 6
    assert set(outcomes(result).values()) == {True}
    (failure,) = result.get_step_failure_events()
    said = failure.step_failure_data.user_failure_data
    assert "1 of 3 drops failed" in said.description and "two drops" in said.description
    assert [row.data["drop"] for row in said.metadata[FAILED_DROPS].value.records] == ["tuesday"]

    (source / "tuesday" / "mixed.parquet").unlink()
    again = run(instance, places, "monday", "wednesday")
    assert again.success
    table = places.protected_table()
    commits = [entry["drop"] for entry in table.history() if entry["operation"] == "WRITE"]
    assert sorted(commits) == ["monday", "tuesday", "wednesday"], "only the drop that failed does any work again"


def test_photos_over_the_failure_budget_fail_their_check_and_are_not_committed(
    instance: DagsterInstance, places: Places
) -> None:
    instance.add_dynamic_partitions(DROPS, ["monday"])
    Storage(places.home).write_bytes("policy.json", b'{"max_quarantined": 0, "max_quarantined_share": 0.1}')
    result = run(instance, places, "monday")
    assert not result.success
    assert outcomes(result) == {("quarantine_is_within_budget", "monday"): False}
    assert made(result) == [("photo_catalog", "monday")]
    assert places.protected_table().drops() == []


def test_a_drop_in_which_protection_is_seen_is_warned_of(instance: DagsterInstance, places: Places) -> None:
    Storage(places.home).write_bytes("policy.json", b"{}")
    instance.add_dynamic_partitions(DROPS, ["monday"])
    result = run(instance, places, "monday")
    assert result.success
    assert outcomes(result) == {(name, "monday"): name != LOOK for name in WHAT}


def test_a_photo_that_is_not_as_recorded_blocks_the_report(instance: DagsterInstance, places: Places) -> None:
    instance.add_dynamic_partitions(DROPS, ["monday"])
    assert run(instance, places, "monday").success
    table = places.protected_table()
    (path,) = table.live_files("monday")
    data = bytearray(table.storage.read_bytes(path))
    data[len(data) // 2] ^= 1
    table.storage.write_bytes(path, bytes(data))
    result = run(instance, places, "monday", recheck=True)
    assert not result.success
    assert not outcomes(result)["every_output_is_as_recorded", "monday"]
    assert ("protection_report", "monday") not in made(result)
    (failure,) = result.get_step_failure_events()
    assert "every_output_is_as_recorded failed" in failure.step_failure_data.user_failure_data.description


def test_checks_alone_read_everything_back_and_write_nothing(instance: DagsterInstance, places: Places) -> None:
    instance.add_dynamic_partitions(DROPS, ["monday"])
    assert run(instance, places, "monday").success
    before = {entry.path: entry.identity for entry in Storage(places.home).list_files()}
    checks = {AssetCheckKey(AssetKey("protected_catalog"), name) for name in WHAT}
    everything = definitions(places).resolve_implicit_global_asset_job_def()
    for partition in ("monday", None):  # None is what the UI's button for all checks asks for
        result = everything.get_subset(asset_selection=set(), asset_check_selection=checks).execute_in_process(
            instance=instance, partition_key=partition, run_config=QUIET
        )
        assert outcomes(result) == {(name, "monday"): True for name in WHAT}
        assert made(result) == []
    assert {entry.path: entry.identity for entry in Storage(places.home).list_files()} == before


@pytest.mark.slow
def test_promotion_outdates_exactly_what_another_defender_protected(
    instance: DagsterInstance, places: Places, tmp_path: Path
) -> None:
    """Promoting redoes what is outdated; promoting back redoes that, and nothing that is still live."""
    from rid.assets.protection.options import ProtectionOptions, protection_settings

    for name in ("tuesday", "wednesday"):
        write_photos(Path(places.source) / name, 2)
    drops = ["monday", "tuesday", "wednesday"]
    instance.add_dynamic_partitions(DROPS, drops)
    first = places.registry().resolve("default").digest
    second = write_tiny_defender(tmp_path / "second", seed=1)

    def outdated() -> list[str]:
        return outdated_drops(instance, protection_settings(ProtectionOptions(), places.rid_home()))

    assert outdated() == drops
    assert run(instance, places, "monday", "wednesday").success
    assert outdated() == []
    places.registry().promote(str(tmp_path / "second"))
    assert outdated() == drops
    assert run(instance, places, "monday").success
    assert outdated() == drops[1:]
    table = places.protected_table()
    written = {entry.path for entry in table.storage.list_files("drop=monday")}

    places.registry().promote(first)
    assert outdated() == ["monday"]
    assert run(instance, places, "monday", "wednesday").success
    assert outdated() == []
    commits = [(e["drop"], e["defender_digest"]) for e in reversed(table.history()) if e["operation"] == "WRITE"]
    assert commits == [*((drop, first) for drop in drops), ("monday", second), ("monday", first)]
    assert {entry.path for entry in table.storage.list_files("drop=monday")} == written, "a rollback computes nothing"


@pytest.mark.slow
def test_dagster_itself_finds_what_is_outdated(instance: DagsterInstance, places: Places, tmp_path: Path) -> None:
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.loader import LoadingContextForTest

    write_photos(Path(places.source) / "tuesday", 2)
    instance.add_dynamic_partitions(DROPS, ["monday", "tuesday"])
    assert run(instance, places, "monday", "tuesday").success
    assert run(instance, places, "monday").success
    graph = definitions(places).resolve_asset_graph()

    def stale(asset: str) -> list[str]:
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        found = {drop: resolver.get_status(AssetKey(asset), drop) for drop in ("monday", "tuesday")}
        assert StaleStatus.MISSING not in found.values()
        return [drop for drop, status in found.items() if status == StaleStatus.STALE]

    for asset in ("photo_catalog", "protected_catalog", "protection_report"):
        assert stale(asset) == []
    write_tiny_defender(tmp_path / "second", seed=1)
    places.registry().promote(str(tmp_path / "second"))
    assert run(instance, places, "monday").success
    assert stale("protected_catalog") == ["tuesday"]
    Storage(places.home).write_bytes("policy.json", b'{"budget_levels": 4}')
    assert run(instance, places, "tuesday").success
    assert stale("protected_catalog") == ["monday"]
    write_photos(Path(places.source) / "tuesday", 1, first=5)
    assert run(instance, places, "tuesday", assets=["photo_catalog"]).success
    assert stale("protected_catalog") == ["monday", "tuesday"]
    assert run(instance, places, "tuesday", assets=["protected_catalog"]).success
    assert stale("protection_report") == ["tuesday"]
    newest = instance.fetch_materializations(
        AssetRecordsFilter(asset_key=AssetKey("protected_catalog"), asset_partitions=["tuesday"]), limit=1
    ).records[0]
    assert newest.asset_materialization is not None
    assert newest.asset_materialization.metadata["photos"].value == 3


@pytest.mark.slow
def test_the_whole_chain_trains_a_defender_and_protects_with_it(
    instance: DagsterInstance, places: Places, pipelines: dict[str, Path]
) -> None:
    """Photos -> teacher -> defender -> ONNX -> protected, and a second time nothing is computed again."""
    instance.add_dynamic_partitions(DROPS, ["monday"])
    teacher = {"models": [str(folder) for folder in pipelines.values()], "share": 1.0, "steps": 2}
    training = {**teacher, "drops": ["monday"], "recipe": "demo", "sample_sheet": 2}
    training["recipe_fields"] = {"steps": 3}
    config = {
        "teacher_perturbations": {"config": teacher},
        "defender": {"config": training},
        "defender_onnx": {"config": {"promote": True, "although_it_fails": True}},
    }
    resources = {"places": places, "dask": HERE}
    digests = []
    for _ in range(2):
        assert run(instance, places, "monday", assets=["photo_catalog"]).success
        for assets, partition in (([teacher_perturbations], "monday"), ([defender, defender_onnx], None)):
            result = materialize(
                assets,
                partition_key=partition,
                resources=resources,
                instance=instance,
                run_config={"ops": {one.node_def.name: config[one.node_def.name] for one in assets}},
            )
            assert result.success
            if partition is None:
                (event,) = result.asset_materializations_for_node("defender")
                assert "data:image/png;base64," in str(event.metadata["loss"].value)
                assert "data:image/jpeg;base64," in str(event.metadata["samples"].value)
                digests.append((event.metadata["digest"].value, event.metadata["trained in this run"].value))
        assert run(instance, places, "monday", assets=["protected_catalog"], budget_levels=8).success
    assert digests[0][0] == digests[1][0]
    assert [trained for _, trained in digests] == [True, False]
    table = places.protected_table()
    used = set(table.read("monday", ["defender_digest"]).column(0).to_pylist())
    assert used == {digests[0][0]} == {places.registry().aliases()["default"]}
    losses = places.registry().resolve("default").config["training"]["losses"]
    assert losses["step"] == [0, 2] and all(losses["adv_sds"]) and all(losses["regression"])


def test_a_training_that_cannot_be_fails_once_with_a_sentence(
    instance: DagsterInstance, places: Places, pipelines: dict[str, Path]
) -> None:
    instance.add_dynamic_partitions(DROPS, ["monday"])
    assert run(instance, places, "monday", assets=["photo_catalog"]).success
    models = [str(pipelines["epsilon"])]
    for drops, sentence in (["monday"], "drop 'monday' has no perturbations"), (["friday"], "drop 'friday' has no"):
        result = materialize(
            [defender],
            resources={"places": places, "dask": HERE},
            instance=instance,
            raise_on_error=False,
            run_config={"ops": {"defender": {"config": {"drops": drops, "recipe": "demo", "models": models}}}},
        )
        (failure,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
        assert sentence in str(failure.event_specific_data)
        assert not [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]


def test_a_drop_that_is_nowhere_gives_a_sentence(places: Places) -> None:
    with pytest.raises(FileNotFoundError, match="neither"):
        places.drop_source("tuesday")
