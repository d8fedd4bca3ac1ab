from pathlib import Path

import pytest
from dagster import DagsterInstance, materialize
from odd_photos import encoded, photograph
from tiny_defender import write_tiny_defender

from assets.checks import every_output_is_as_recorded, every_photo_has_a_status
from assets.partitions import DROPS
from assets.photo_catalog import photo_catalog
from assets.protected_catalog import protected_catalog
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


def test_a_drop_that_is_nowhere_gives_a_sentence(places: Places) -> None:
    with pytest.raises(FileNotFoundError, match="neither"):
        places.drop_source("tuesday")


def test_loading_the_definitions_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, dagster_project.definitions;"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
