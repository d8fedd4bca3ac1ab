"""The asset and its cache: what is computed once is never computed again, and a killed task goes on."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import DagsterInstance, Failure, materialize
from random_pipelines import SIDE, write_random_pipeline
from small_catalogs import photo_bytes, tree
from teacher_runs import OPTIONS, run_task_and_die, small_config, small_photos
from tiny_defender import write_tiny_defender
from training_runs import in_child

from rid.assets.configs import ProtectionConfig, drop_request
from rid.assets.partitions import DROPS
from rid.assets.protection.run import catalogue
from rid.assets.teacher_perturbations import teacher_perturbations
from rid.assets.teaching.teacher_cache import DropIndex, StoredCheckpoint, TeacherCache
from rid.assets.teaching.teacher_tasks import TeacherTask, precompute_batch
from rid.assets.training_config import TeacherRunConfig, teacher_config, teacher_request
from rid.resources.dask_cluster import DaskCluster
from rid.resources.frozen.diffusion_sources import DiffusionSource
from rid.resources.places import Places
from rid.resources.schemas import IMAGE
from rid.resources.storage import Storage
from rid.training.teachers.units import Unit, person_units, photo_digest


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_pipeline(tmp_path_factory.mktemp("random-pipeline"))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Two people with two photos each."""
    for index, name in enumerate(["anna/0", "anna/1", "ben/0", "ben/1"]):
        add_photo(tmp_path / "source" / "monday" / f"{name}.jpg", index)
    write_tiny_defender(tmp_path / "weights" / "default")
    return Places(home=str(tmp_path / "home"), source=str(tmp_path / "source"), weights=str(tmp_path / "weights"))


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(DROPS, ["monday", "tuesday"])
        yield instance


def add_photo(file: Path, seed: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(photo_bytes(seed))


def run_config(pipeline: Path, method: str, **changes: Any) -> TeacherRunConfig:
    fields = {"models": [str(pipeline)], "working_resolution": SIDE, "share": 1.0, "steps": 2, "batch": 2}
    fields |= {"method": method, "method_options": OPTIONS.get(method, {})}
    return TeacherRunConfig(**(fields | changes))


def computed(places: Places, instance: DagsterInstance, config: TeacherRunConfig, drop: str = "monday") -> int:
    """Catalogues a drop and materialises its perturbations; returns how many photos were perturbed."""
    dask = DaskCluster(n_workers=0)
    with dask.connect() as workers:
        catalogue(drop_request(drop, ProtectionConfig(), places), workers)
    result = materialize(
        [teacher_perturbations],
        partition_key=drop,
        resources={"places": places, "dask": dask},
        instance=instance,
        run_config={"ops": {"teacher_perturbations": {"config": config.model_dump()}}},
    )
    assert result.success
    cache, index = teacher_request(config, places).cache(), index_of(places, config, drop)
    for unit in index.units:
        assert cache.read(unit).shape == (len(unit.photos), SIDE, SIDE, 3)
    (event,) = result.asset_materializations_for_node("teacher_perturbations")[:1]
    return int(event.metadata["perturbations computed"].value)


def index_of(places: Places, config: TeacherRunConfig, drop: str = "monday") -> DropIndex:
    request = teacher_request(config, places)
    index = request.cache().read_index(drop, request.selection)
    assert index is not None
    return index


def test_a_photo_is_perturbed_once(places: Places, instance: DagsterInstance, pipeline: Path) -> None:
    """Whatever the drop; another photo, teacher or model is work."""
    config = run_config(pipeline, "sds_plus")
    assert computed(places, instance, config) == 4
    before = tree(Path(places.home) / "perturbations")
    assert computed(places, instance, config) == 0
    assert tree(Path(places.home) / "perturbations") == before
    add_photo(Path(places.source) / "monday" / "carl.jpg", 9)
    assert computed(places, instance, config) == 1
    shutil.copytree(Path(places.source) / "monday" / "ben", Path(places.source) / "tuesday" / "renamed")
    assert computed(places, instance, config, "tuesday") == 0
    assert computed(places, instance, config.model_copy(update={"steps": 3})) == 5
    assert computed(places, instance, config.model_copy(update={"set_by": "drop"})) == 0  # it means nothing here


def test_a_model_that_was_trained_again_in_its_folder_gets_perturbations_of_its_own(
    places: Places, instance: DagsterInstance, pipeline: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(pipeline, tmp_path / "model")
    config = run_config(model, "sds_plus")
    assert computed(places, instance, config) == 4
    shutil.rmtree(model)
    write_random_pipeline(model, seed=7)
    assert computed(places, instance, config) == 4
    shutil.rmtree(model)
    shutil.copytree(pipeline, model)
    assert computed(places, instance, config) == 0


def test_no_square_is_left_when_the_perturbations_are_there(
    places: Places, instance: DagsterInstance, pipeline: Path
) -> None:
    computed(places, instance, run_config(pipeline, "sds_plus"))
    assert not (Path(places.home) / "training").exists() or tree(Path(places.home) / "training") == {}


def test_a_persons_set_is_perturbed_once(places: Places, instance: DagsterInstance, pipeline: Path) -> None:
    """A photo more makes another set of that person, and of nobody else."""
    config = run_config(pipeline, "fsmg")
    assert computed(places, instance, config) == 4
    assert computed(places, instance, config) == 0
    add_photo(Path(places.source) / "monday" / "ben" / "2.jpg", 9)
    assert computed(places, instance, config) == 3
    one_set = config.model_copy(update={"set_by": "drop"})
    assert computed(places, instance, one_set) == 5
    assert [len(unit.photos) for unit in index_of(places, one_set).units] == [5]


def test_people_are_told_apart_by_a_column(places: Places, instance: DagsterInstance, pipeline: Path) -> None:
    images = [{"bytes": photo_bytes(seed), "path": f"{seed}.jpg"} for seed in range(6)]
    columns = {"image": pa.array(images, IMAGE), "person": pa.array([7, 8, 7, 7, None, None])}
    pq.write_table(pa.table(columns), Path(places.source) / "tuesday.parquet")
    config = run_config(pipeline, "aspl", set_by="person")
    assert computed(places, instance, config, "tuesday") == 6
    sizes = sorted(len(unit.photos) for unit in index_of(places, config, "tuesday").units)
    assert sizes == [1, 1, 1, 3]  # an unknown person is one of their own
    with pytest.raises(Failure, match=r"no column 'identity': they have person, or choose 'folder' or 'drop'"):
        computed(places, instance, config.model_copy(update={"set_by": "identity"}), "tuesday")
    with pytest.raises(Failure, match="give each person a folder"):
        computed(places, instance, config.model_copy(update={"set_by": "folder"}), "tuesday")


def test_a_wrong_method_or_option_gives_a_sentence(pipeline: Path) -> None:
    with pytest.raises(ValueError, match="choose one of advdm, fsmg"):
        teacher_config(run_config(pipeline, "glaze"))
    with pytest.raises(ValueError, match="'taget': allowed are target"):
        teacher_config(run_config(pipeline, "encoder", method_options={"taget": "grey"}))


def prepared(folder: Path, pipeline: Path, method: str) -> tuple[TeacherCache, TeacherTask, Unit]:
    """A task over one set, and its photos in a cache."""
    cache, photos = TeacherCache(Storage(str(folder))), small_photos(2)
    unit = Unit(tuple(sorted(photo_digest(photo) for photo in photos)))
    for photo in photos:
        cache.write_photo(photo_digest(photo), photo)
    models = (DiffusionSource(str(pipeline)),)
    return cache, TeacherTask(cache.storage, (unit,), small_config(method), models), unit


def test_a_killed_task_goes_on_from_its_checkpoint(tmp_path: Path, pipeline: Path) -> None:
    whole, task, unit = prepared(tmp_path / "whole", pipeline, "aspl")
    assert precompute_batch(task) == 2
    assert precompute_batch(task) == 0  # it is there
    cache, task, unit = prepared(tmp_path / "killed", pipeline, "aspl")
    assert in_child(run_task_and_die, task, 1, dict(os.environ)) == -9
    assert not cache.has(unit)
    assert len(list((tmp_path / "killed" / "checkpoints").iterdir())) == 2  # head and part
    assert precompute_batch(task) == 2
    assert np.array_equal(cache.read(unit), whole.read(unit))
    assert list((tmp_path / "killed" / "checkpoints").iterdir()) == []


def test_a_checkpoint_is_found_whole_or_not_at_all(store: Storage) -> None:
    first, second = os.urandom(2500), os.urandom(900)
    checkpoint = StoredCheckpoint(store, "run", part_bytes=1000)
    assert checkpoint.read() is None
    checkpoint.write(first)
    assert checkpoint.read() == first
    assert len(list(store.list_files())) == 4
    store.write_bytes("checkpoints/run-torn-0", b"a part without a head")
    assert StoredCheckpoint(store, "run").read() == first
    checkpoint.write(second)
    assert checkpoint.read() == second
    checkpoint.delete()
    assert checkpoint.read() is None
    assert [entry.path for entry in store.list_files()] == ["checkpoints/run-torn-0"]


def test_sets_are_even_and_named_by_their_photos() -> None:
    people = {"anna": [f"{i:02}" for i in range(11)], "ben": ["b", "a", "b"], "carl": ["c"]}
    units = person_units(people, largest=4)
    assert [len(unit.photos) for unit in units] == [3, 4, 4, 2, 1]
    assert units[3].photos == ("a", "b")
    assert units[4].address == "c"
    assert len({unit.address for unit in units}) == 5
    assert Unit(("a", "b")).address == units[3].address != Unit(("a", "b", "c")).address
