"""`rid protect` and the assets are given the same options in two ways and make the same of them."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster import AssetKey, DagsterInstance, Definitions
from small_catalogs import photo_bytes, write_parquet, write_photos
from tiny_defender import write_tiny_defender

from rid.assets.configs import ProtectionConfig
from rid.assets.drop_chain import drop_chain
from rid.assets.partitions import DROPS
from rid.assets.protection.options import ProtectionOptions
from rid.assets.protection_inputs import protection_inputs
from rid.dagster_project.cli import app
from rid.dagster_project.jobs import protect_drop
from rid.models.policy import ProtectionPolicy
from rid.resources.commits import ProtectedTable
from rid.resources.dask_cluster import DaskCluster
from rid.resources.places import Places
from rid.resources.schemas import IMAGE
from rid.resources.storage import Storage

FOUR_LEVELS = '{"budget_levels": 4, "mark": false}'
EIGHT_LEVELS = '{"budget_levels": 8}'


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    monkeypatch.setenv("RID_HOME", str(tmp_path / "home"))
    write_tiny_defender(tmp_path / "weights" / "default")
    table = write_parquet(tmp_path / "source" / "monday.parquet", 5)
    broken = table.slice(0, 1).set_column(0, "image", pa.array([{"bytes": b"none", "path": "x.jpg"}], table[0].type))
    pq.write_table(pa.concat_tables([table, broken]), tmp_path / "source" / "monday.parquet")
    return Places(home=str(tmp_path / "home"), source=str(tmp_path / "source"), weights=str(tmp_path / "weights"))


def by_command(rid: Any, *arguments: str) -> ProtectedTable:
    """Protects the drop by `rid protect` into a table of its own."""
    command = ("protect", "source/monday.parquet", "table", "--drop", "monday", "--workers", "0", "--json")
    code, out, err = rid(*command, "--defender", "defender", *arguments)
    assert code in (0, 3), err
    assert json.loads(out)["photos"] > 0
    return ProtectedTable(Storage("table"))


def by_assets(places: Places, **config: object) -> ProtectedTable:
    """Protects the drop by the assets, into RID_HOME's table."""
    here = Definitions(
        assets=[protection_inputs, drop_chain],
        jobs=[protect_drop],
        resources={"places": places, "dask": DaskCluster(n_workers=0)},
    )
    quiet = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    with DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(DROPS, ["monday"])
        result = here.resolve_job_def("protect_drop").execute_in_process(
            instance=instance,
            run_config=quiet | {"ops": {"drop_chain": {"config": {"defender": "defender"} | config}}},
            asset_selection=[AssetKey("photo_catalog"), AssetKey("protected_catalog")],
            partition_key="monday",
        )
    assert result.success
    return places.protected_table()


def receipts(table: ProtectedTable) -> list[dict[str, Any]]:
    schema = table.schema()
    assert schema is not None
    rows: list[dict[str, Any]] = table.read("monday", schema.names).sort_by("key").to_pylist()
    return rows


def assert_equal(ours: ProtectedTable, theirs: ProtectedTable) -> list[dict[str, Any]]:
    """Holds whole rows and the names of shard files, which have the work keys, against each other."""
    rows = receipts(ours)
    assert rows == receipts(theirs)
    assert list(ours.live_files("monday")) == list(theirs.live_files("monday"))
    assert all(row["output_sha256"] for row in rows if row["status"] == "protected")
    return rows


@pytest.mark.parametrize(
    ("home_policy", "arguments", "config", "levels"),
    [
        (None, (), {}, 6),
        (None, ("--budget", "3"), {"budget_levels": 3}, 3),
        (FOUR_LEVELS, (), {}, 4),
        (FOUR_LEVELS, ("--budget", "3"), {"budget_levels": 3}, 3),
        (FOUR_LEVELS, ("--policy", "policy.json"), {"policy_json": EIGHT_LEVELS}, 8),
        (
            FOUR_LEVELS,
            ("--policy", "policy.json", "--budget", "3"),
            {"policy_json": EIGHT_LEVELS, "budget_levels": 3},
            3,
        ),
        (FOUR_LEVELS, ("--trust-marks",), {"trust_marks": True}, 4),
    ],
)
def test_receipts_are_equal_and_the_nearest_word_decides(
    rid: Any,
    deployment: Places,
    tmp_path: Path,
    home_policy: str | None,
    arguments: tuple[str, ...],
    config: dict[str, object],
    levels: int,
) -> None:
    if home_policy is not None:
        (tmp_path / "home").mkdir()
        (tmp_path / "home" / "policy.json").write_text(home_policy)
    (tmp_path / "policy.json").write_text(EIGHT_LEVELS)
    rows = assert_equal(by_command(rid, *arguments), by_assets(deployment, **config))
    assert [row["status"] for row in rows].count("protected") == 5
    assert {row["budget_levels"] for row in rows if row["status"] == "protected"} == {levels}
    policy = config.get("policy_json") or home_policy or "{}"
    values = json.loads(str(policy)) | ({"trust_marks": True} if config.get("trust_marks") else {})
    assert {row["policy_digest"] for row in rows if row["policy_digest"]} == {ProtectionPolicy(**values).digest()}


def test_retries_are_equal(rid: Any, deployment: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos held back for a fault of the protector are tried again by both, and give the next generation."""
    with monkeypatch.context() as faulty:
        faulty.setattr("rid.models.protector.Protector.protect", _fails)
        before = assert_equal(by_command(rid), by_assets(deployment))
    assert [row["reason"] for row in before].count("internal_error") == 5
    again = assert_equal(by_command(rid), by_assets(deployment))
    assert again == before
    rows = assert_equal(by_command(rid, "--retry", "internal_error"), by_assets(deployment, retry=["internal_error"]))
    assert [row["status"] for row in rows].count("protected") == 5
    assert all(row["reason"] != "internal_error" for row in rows)


def _fails(*_: object, **__: object) -> None:
    raise RuntimeError("a defect")


def test_marks_are_believed_alike(rid: Any, deployment: Places, tmp_path: Path) -> None:
    """Photos that another target published: unknown, borne out by its receipts, and trusted without any."""
    write_photos(tmp_path / "photos", 3)
    assert rid("protect", "photos", "published", "--defender", "defender", "--workers", "0")[0] == 0
    files = sorted(file for file in (tmp_path / "published").rglob("*.jpg"))
    images = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    pq.write_table(pa.table({"image": pa.array(images, IMAGE)}), tmp_path / "source" / "monday.parquet")

    def decided(*arguments: str, **config: object) -> tuple[list[str], list[list[str]]]:
        rows = assert_equal(by_command(rid, *arguments), by_assets(deployment, **config))
        return [row["status"] for row in rows], [row["flags"] for row in rows]

    assert decided() == (["protected"] * 3, [["mark_replaced"]] * 3)
    assert decided("--trust-marks", trust_marks=True) == (["skipped"] * 3, [["mark_trusted"]] * 3)
    known = ("--known", "published", "--retry", "already_protected")
    assert decided(*known, known=["published"], retry=["already_protected"]) == (["skipped"] * 3, [[]] * 3)


def test_a_file_that_changed_under_its_listing_is_found_alike(rid: Any, deployment: Places, tmp_path: Path) -> None:
    """Size and time of the source are those of the last run; only `rehash` reads it again."""
    file = tmp_path / "source" / "monday.parquet"
    pq.write_table(pq.read_table(file), file, compression="none", use_dictionary=False)
    before = assert_equal(by_command(rid), by_assets(deployment))
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    data = bytearray(file.read_bytes())
    at = data.index(b"photo 3")
    data[at : at + 7] = b"photo 8"
    file.write_bytes(data)
    os.utime(file, ns=times)
    assert assert_equal(by_command(rid), by_assets(deployment)) == before
    rows = assert_equal(by_command(rid, "--rehash"), by_assets(deployment, rehash=True))
    assert [row["caption"] for row in rows] != [row["caption"] for row in before]


def test_columns_that_hold_pictures_are_treated_alike(rid: Any, deployment: Places, tmp_path: Path) -> None:
    images = [{"bytes": photo_bytes(i), "path": f"{i}.jpg"} for i in range(4)]
    columns = {"image": pa.array(images[:2], IMAGE), "image_2": pa.array(images[2:], IMAGE)}
    columns |= {"thumb": pa.array([photo_bytes(9, side=40), None], pa.binary())}
    pq.write_table(pa.table(columns), tmp_path / "source" / "monday.parquet")
    config = {"image_columns": ["image_2"], "pass_columns": ["thumb"]}
    by_name = ("--image-column", "image_2", "--pass", "thumb")
    rows = assert_equal(by_command(rid, *by_name), by_assets(deployment, **config))
    assert [len(row["pictures_sha256"]) for row in rows] == [1, 1]
    assert rows[0]["image_2"]["bytes"] != images[2]["bytes"] and rows[0]["thumb"] == columns["thumb"][0].as_py()


def test_prefixes_are_allowed_alike(rid: Any, deployment: Places, tmp_path: Path) -> None:
    write_photos(tmp_path / "elsewhere", 1)
    (tmp_path / "source" / "near.jpg").write_bytes(photo_bytes(7))
    uris = [str(tmp_path / "elsewhere" / "p000.jpg"), "near.jpg"]
    pq.write_table(pa.table({"uri": uris}), tmp_path / "source" / "monday.parquet")
    closed = assert_equal(by_command(rid), by_assets(deployment))
    assert sorted(str(row["reason"]) for row in closed) == ["None", "uri_not_allowed"]
    prefix = str(tmp_path / "elsewhere")
    rows = assert_equal(by_command(rid, "--allow-uri", prefix), by_assets(deployment, allow_uris=[prefix]))
    assert {row["status"] for row in rows} == {"protected"}


def test_a_bad_policy_of_the_deployment_is_named(rid: Any, deployment: Places, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "policy.json").write_text('{"budget": 4}')
    code, out, err = rid("protect", "source/monday.parquet", "table", "--defender", "defender", "--workers", "0")
    assert (code, out) == (5, "") and err.count("\n") == 1
    assert str(tmp_path / "home" / "policy.json") in err and "unknown field 'budget'" in err
    assert not (tmp_path / "table").exists()


def test_every_option_is_on_the_command_line_and_in_the_launchpad() -> None:
    """An option that only one of them has would make the two differ again."""
    names = set(ProtectionOptions.__dataclass_fields__)
    launchpad = {"policy_json": "policy", "allow_uris": "allowed_prefixes"}
    assert {launchpad.get(name, name) for name in ProtectionConfig.model_fields} == names
    (command,) = [one for one in app.registered_commands if one.callback and one.callback.__name__ == "protect"]
    assert command.callback is not None
    line = {"budget": "budget_levels", "allow_uri": "allowed_prefixes"}
    line |= {"image_column": "image_columns", "pass_column": "pass_columns"}
    assert names <= {line.get(name, name) for name in command.callback.__annotations__}


def test_a_drop_may_not_lie_in_the_table_of_its_own_deployment(tmp_path: Path) -> None:
    from rid.assets.configs import drop_request

    write_photos(tmp_path / "all" / "protected", 1)
    write_tiny_defender(tmp_path / "defender")
    places = Places(home=str(tmp_path / "all"), source=str(tmp_path / "all"), weights=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="overlap"):
        drop_request("protected", ProtectionConfig(defender=str(tmp_path / "defender")), places)
