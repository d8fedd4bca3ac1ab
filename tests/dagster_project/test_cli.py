import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_catalogs import photo_bytes, write_parquet, write_photos
from small_spaces import save_spaces
from tiny_defender import write_tiny_defender


def protect(rid, *arguments: str):
    return rid("protect", *arguments, "--defender", "defender", "--workers", "0")


def one_sentence(err: str) -> bool:
    return err.startswith("rid: ") and err.count("\n") == 1 and "Traceback" not in err


def test_protect_then_verify(rid, tmp_path: Path):
    write_photos(tmp_path / "photos", 4)
    code, out, err = protect(rid, "photos", "out")
    assert (code, err) == (0, "")
    assert "4 photos: 4 protected, 0 skipped, 0 quarantined" in out
    code, out, _ = protect(rid, "photos", "out")
    assert code == 0 and "nothing to commit" in out
    assert rid("verify", "out")[0] == 0
    (tmp_path / "out" / "p000.jpg").write_bytes(b"changed")
    code, out, _ = rid("verify", "out")
    assert code == 6 and "changed: p000.jpg" in out and "NOT verified" in out
    code, out, _ = rid("verify", "out", "--json")
    assert code == 6 and json.loads(out)["findings"][0]["name"] == "p000.jpg"


def test_quarantined_photos_give_exit_3_and_json(rid, tmp_path: Path):
    write_photos(tmp_path / "photos", 2)
    (tmp_path / "photos" / "text.jpg").write_text("no picture")
    code, out, _ = protect(rid, "photos", "out", "--json", "--drop", "summer-2026", "--budget", "4")
    summary = json.loads(out)
    assert code == 3
    assert (summary["drop"], summary["photos"], summary["protected"]) == ("summer-2026", 3, 2)
    assert summary["quarantined"] == {"unsupported_format": 1}


def test_the_failure_budget_gives_exit_4(rid, tmp_path: Path):
    write_photos(tmp_path / "photos", 2)
    (tmp_path / "photos" / "text.jpg").write_text("no picture")
    (tmp_path / "policy.json").write_text('{"max_quarantined": 0, "max_quarantined_share": 0.1}')
    code, _, err = protect(rid, "photos", "out", "--policy", "policy.json")
    assert code == 4 and one_sentence(err) and "1 of 3 photos" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("photos", "photos"), "overlap"),
        (("photos", "photos/out"), "overlap"),
        (("photos/odd", "photos"), "overlap"),
        (("photos", "link-to-photos/out"), "overlap"),
        (("photos", "full"), "not empty"),
        (("nothing", "out"), "no folder"),
        (("empty", "out"), "holds no photos"),
        (("http://host/photos", "out"), "http:// is not allowed"),
        (("photos", "out", "--budget", "17"), "17"),
        (("photos", "out", "--drop", "../up"), "drop name"),
        (("photos", "out", "--retry", "bored"), "reason 'bored' is unknown"),
        (("photos", "out", "--policy", "gone.json"), "gone.json"),
        (("photos", "out", "--scheduler", "tcp://far:8786"), "without TLS"),
        (("photos", "out", "--colour"), "--colour"),
        (("photos",), "TARGET"),
        (("mixed", "out"), "two drops"),
        (("clash.parquet", "out"), "'status'"),
    ],
)
def test_invalid_requests_give_exit_5_and_one_sentence(rid, tmp_path: Path, arguments: tuple[str, ...], says: str):
    import pyarrow.parquet as pq

    write_photos(tmp_path / "photos", 2)
    (tmp_path / "link-to-photos").symlink_to(tmp_path / "photos")
    write_photos(tmp_path / "full", 1)
    (tmp_path / "empty").mkdir()
    write_photos(tmp_path / "mixed", 1)
    table = write_parquet(tmp_path / "mixed" / "a.parquet", 1)
    pq.write_table(table.rename_columns(["image", "status", "label"]), tmp_path / "clash.parquet")
    code, out, err = protect(rid, *arguments)
    assert (code, out) == (5, "")
    assert one_sentence(err) and says in err, err
    assert not (tmp_path / "out").exists()


def test_an_unknown_defender_is_named(rid, tmp_path: Path):
    write_photos(tmp_path / "photos", 1)
    code, _, err = rid("protect", "photos", "out", "--defender", "nobody", "--workers", "0")
    assert code == 5 and one_sentence(err) and "'nobody'" in err


def test_a_dry_run_writes_nothing(rid, tmp_path: Path):
    write_photos(tmp_path / "photos", 3)
    code, out, _ = protect(rid, "photos", "out", "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0 and not (tmp_path / "out").exists()
    assert plan["photos"] == 3 and plan["bytes"] == sum(f.stat().st_size for f in (tmp_path / "photos").rglob("*.jpg"))
    assert plan["engine"].startswith("onnxruntime") and plan["seconds_estimated"] > 0
    assert "photos" in protect(rid, "photos", "out", "--dry-run")[1]


def test_a_dry_run_of_bad_photos_still_answers(rid, tmp_path: Path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "text.jpg").write_text("no picture")
    assert protect(rid, "photos", "out", "--dry-run")[0] == 0


def test_parquet_becomes_a_table(rid, tmp_path: Path):
    write_parquet(tmp_path / "in.parquet", 3)
    assert protect(rid, "in.parquet", "table")[0] == 0
    assert (tmp_path / "table" / "_delta_log").is_dir()
    assert rid("verify", "table")[0] == 0
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.jpg").write_bytes(photo_bytes(9))
    assert protect(rid, "photos", "table")[0] == 0


def test_defenders_are_listed_and_promoted(rid, tmp_path: Path):
    code, out, _ = rid("defenders", "promote", "defender", "--although-it-fails")
    assert code == 0 and rid.digest[:12] in out
    listed = json.loads(rid("defenders", "list", "--json")[1])
    (mine,) = [entry for entry in listed if entry["digest"] == rid.digest]
    assert "default" in mine["aliases"]
    assert "tiny-0" in rid("defenders", "list")[1]
    write_photos(tmp_path / "photos", 1)
    assert rid("protect", "photos", "out", "--workers", "0")[0] == 0
    assert rid("defenders", "promote", "nobody")[0] == 5


def test_a_report_measures_displacement_in_the_spaces_that_are_named(rid, tmp_path: Path):
    write_photos(tmp_path / "photos", 2)
    assert protect(rid, "photos", "out")[0] == 0
    (space,) = save_spaces(tmp_path / "spaces", 1)
    code, out, _ = rid("report", "out", "--space", str(space), "--workers", "0", "--out", "reports")
    assert code == 0 and "index.html" in out
    (found,) = (tmp_path / "reports").rglob("report.json")
    (moved,) = json.loads(found.read_text())["displacement"]
    assert (moved["space"], moved["photos"], moved["side"]) == ("space-0", 2, 512)
    code, _, err = rid("report", "out", "--space", "sd9", "--workers", "0")
    assert code == 5 and one_sentence(err) and "none of sd1, sdxl, sd3, flux1" in err


def test_drops_need_a_dagster_instance_and_live_in_it(rid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    code, _, err = rid("drops", "list")
    assert code == 5 and one_sentence(err) and "DAGSTER_HOME" in err
    (tmp_path / "dagster").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    assert rid("drops", "add", "summer-2026")[0] == 0
    assert rid("drops", "list")[1].split() == ["summer-2026"]
    assert rid("drops", "add", "../up")[0] == 5


def test_doctor(rid):
    code, out, _ = rid("doctor")
    assert code == 0
    for word in ("pyarrow", "conditional write", "GPUs", "licence", "127.0.0.1"):
        assert word in out


def test_internal_errors_are_one_sentence(rid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_photos(tmp_path / "photos", 1)

    def broken(*_: object, **__: object):
        raise KeyError("a defect")

    monkeypatch.setattr("rid.assets.protection.run.run_drop", broken)
    code, _, err = protect(rid, "photos", "out")
    assert code == 1 and one_sentence(err) and "KeyError" in err


def test_protecting_imports_neither_dagster_nor_torch(tmp_path: Path):
    write_photos(tmp_path / "photos", 1)
    write_tiny_defender(tmp_path / "defender")
    script = (
        "import sys; from rid.dagster_project.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False); app(['verify', 'out'], standalone_mode=False)\n"
        "found = {'dagster', 'torch', 'distributed'} & set(sys.modules); assert not found, found\n"
    )
    arguments = ["protect", "photos", "out", "--defender", "defender", "--workers", "0"]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script, *arguments], cwd=tmp_path, env=environment, check=True)


def test_help_lists_the_commands_without_heavy_imports():
    script = (
        "import sys; sys.argv = ['rid', '--help']; from rid.dagster_project.cli import main\n"
        "try: main()\nexcept SystemExit as leaving: assert not leaving.code, leaving.code\n"
        "found = {'dagster', 'torch', 'pyarrow', 'cv2', 'distributed'} & set(sys.modules); assert not found, found\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True
    )
    for command in ("protect", "verify", "defenders", "drops", "doctor"):
        assert command in done.stdout
