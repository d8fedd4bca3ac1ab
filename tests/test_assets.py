from pathlib import Path

import pytest
from dagster import DagsterInstance, materialize
from odd_photos import encoded, photograph
from tiny_defender import write_tiny_defender

from assets.checks import every_output_is_as_recorded, every_photo_has_a_status
from assets.defender import defender
from assets.defender_onnx import defender_onnx
from assets.partitions import DROPS
from assets.photo_catalog import photo_catalog
from assets.protected_catalog import protected_catalog
from assets.teacher_perturbations import teacher_perturbations
from resources.commits import ProtectedTable
from resources.dask_cluster import DaskCluster
from resources.places import Places

CHAIN = [photo_catalog, protected_catalog, every_photo_has_a_status, every_output_is_as_recorded]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    folder = tmp_path / "source" / "monday"
    folder.mkdir(parents=True)
    for index in range(3):
        (folder / f"{index}.jpg").write_bytes(encoded(photograph(seed=index)))
    (folder / "graphic.png").write_bytes(encoded(photograph(), "PNG"))
    (folder / "broken.jpg").write_bytes(encoded(photograph())[:500])
    write_tiny_defender(tmp_path / "weights" / "default")
    return Places(home=str(tmp_path / "home"), source=str(tmp_path / "source"), weights=str(tmp_path / "weights"))


def test_a_drop_is_catalogued_protected_and_checked_and_then_left_alone(places: Places) -> None:
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(DROPS, ["monday"])
        resources = {"places": places, "dask": DaskCluster(n_workers=0)}
        for _ in range(2):
            result = materialize(CHAIN, partition_key="monday", resources=resources, instance=instance)
            assert result.success
            assert all(check.passed for check in result.get_asset_check_evaluations())
        (event,) = result.asset_materializations_for_node("protected_catalog")[:1]
        assert event.metadata["protected"].value == 4
        assert event.metadata["quarantined"].value == 1
    table = ProtectedTable(places.protected_table())
    assert table.read("monday", ["reason"]).column("reason").to_pylist().count("truncated") == 1
    assert len([entry for entry in table.history() if entry["operation"] == "WRITE"]) == 1


def test_the_whole_chain_trains_a_defender_and_protects_with_it(places: Places, pipelines: dict[str, Path]) -> None:
    """Photos -> teacher -> defender -> ONNX -> protected, and a second time nothing is computed again."""
    chain = [photo_catalog, teacher_perturbations, defender, defender_onnx, protected_catalog]
    teacher = {"models": [str(folder) for folder in pipelines.values()], "share": 1.0, "steps": 2}
    training = {**teacher, "drops": ["monday"], "recipe": "demo", "training_steps": 3}
    config = {
        "ops": {
            "photo_catalog": {"config": {}},
            "teacher_perturbations": {"config": teacher},
            "defender": {"config": training},
            "defender_onnx": {"config": {"promote": True}},
            "protected_catalog": {"config": {"budget_levels": 8}},
        }
    }
    digests = []
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(DROPS, ["monday"])
        resources = {"places": places, "dask": DaskCluster(n_workers=0)}
        for _ in range(2):
            for assets, partition in ((chain[:2], "monday"), (chain[2:4], None), (chain[4:], "monday")):
                result = materialize(
                    [*assets],
                    partition_key=partition,
                    resources=resources,
                    instance=instance,
                    run_config={"ops": {one.node_def.name: config["ops"][one.node_def.name] for one in assets}},
                )
                assert result.success
                if partition is None:
                    (event,) = result.asset_materializations_for_node("defender")
                    digests.append((event.metadata["digest"].value, event.metadata["trained in this run"].value))
    assert digests[0][0] == digests[1][0]
    assert [trained for _, trained in digests] == [True, False]
    table = ProtectedTable(places.protected_table())
    used = set(table.read("monday", ["defender_digest"]).column(0).to_pylist())
    assert used == {digests[0][0]} == {places.registry().aliases()["default"]}


def test_a_drop_that_is_nowhere_gives_a_sentence(places: Places) -> None:
    with pytest.raises(FileNotFoundError, match="neither"):
        places.drop_source("tuesday")
