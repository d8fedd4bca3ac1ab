"""Each photo ends in one status with a reason from a list that only grows; a failure budget stops a run."""

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from odd_photos import encoded, photograph
from PIL import Image
from small_catalogs import photo_bytes, request_for, run, tree, write_photos
from tiny_defender import write_tiny_defender

from rid.assets.protection.failure_budget import FailureBudgetExceeded, check_failure_budget
from rid.models.policy import ProtectionPolicy
from rid.models.protector import Protector
from rid.resources.schemas import Reason, Status
from rid.resources.storage import Storage

# Tables and scripts hold these words: one that was published is never renamed or given another meaning.
PUBLISHED = {
    "already_protected", "animated", "deadline", "decode_error", "empty", "format_mismatch", "internal_error",
    "name_collision", "out_of_memory", "protection_lost_in_encoding", "too_large", "too_many_pixels", "too_small",
    "truncated", "unreadable", "unsafe_name", "unsupported_bit_depth", "unsupported_format", "unsupported_mode",
    "uri_not_allowed", "worker_killed",
}  # fmt: skip


def odd_files() -> dict[str, tuple[bytes, str | None]]:
    """Files by name, and the reason for which each is held back."""
    rgb, whole = photograph(80, 72), photo_bytes(1, side=200)
    return {
        "good.jpg": (photo_bytes(2), None),
        "good.png": (photo_bytes(3, "PNG"), None),
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "many.png": (encoded(Image.new("L", (400, 400)), "PNG"), "too_many_pixels"),
        "small.png": (encoded(rgb.resize((20, 20)), "PNG"), "too_small"),
        "wrong.jpg": (photo_bytes(4, "PNG"), "format_mismatch"),
        "moving.png": (encoded(rgb, "PNG", save_all=True, append_images=[rgb.rotate(9)]), "animated"),
        "film.webp": (encoded(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(9)]), "animated"),
        "pages.tif": (encoded(rgb, "TIFF", save_all=True, append_images=[rgb.rotate(9)]), "animated"),
        "other.gif": (encoded(rgb, "GIF"), "unsupported_format"),
        "text.jpg": (b"no picture at all", "unsupported_format"),
        "deep.tif": (encoded(rgb.convert("I"), "TIFF"), "unsupported_bit_depth"),
        "bits.png": (encoded(rgb.convert("1"), "PNG"), "unsupported_bit_depth"),
        "print.jpg": (encoded(rgb.convert("CMYK"), "JPEG"), "unsupported_mode"),
        "broken.png": (b"\x89PNG\r\n\x1a\n" + b"x" * 500, "decode_error"),
        "nothing.jpg": (b"", "empty"),
        "white.png": (encoded(Image.new("RGB", (80, 80), "white"), "PNG"), None),
        "Twin.jpg": (photo_bytes(5), "name_collision"),
        "twin.jpg": (photo_bytes(6), "name_collision"),
        "back\\slash.jpg": (photo_bytes(7), "unsafe_name"),
    }


def test_the_list_of_reasons_only_grows() -> None:
    assert {reason.value for reason in Reason} >= PUBLISHED
    assert {status.value for status in Status} == {"protected", "skipped", "quarantined"}
    assert all(re.fullmatch("[a-z_]+", reason.value) for reason in Reason)


@pytest.mark.parametrize("kind", ["files", "table"])
def test_each_photo_has_one_status_and_a_stable_reason(tmp_path: Path, kind: str) -> None:
    files = odd_files()
    for name, (data, _) in files.items():
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(data)
    policy = ProtectionPolicy(max_pixels=100_000, strict_names=True)
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender", policy=policy, target_kind=kind)
    summary = run(request)
    rows = request.target.receipts.read("d1", ["key", "status", "reason", "detail", "output_sha256"]).to_pylist()
    assert {row["key"]: row["reason"] for row in rows} == {name: reason for name, (_, reason) in files.items()}
    assert all((row["status"] == "quarantined") == (row["reason"] is not None) for row in rows)
    assert all(bool(row["detail"]) == (row["reason"] is not None) for row in rows)
    assert all((row["output_sha256"] is None) == (row["reason"] is not None) for row in rows)
    assert summary.quarantined == dict(sorted(Counter(reason for _, reason in files.values() if reason).items()))
    assert summary.photos == summary.protected + sum(summary.quarantined.values()) == len(files)
    if kind == "files":
        assert set(tree(tmp_path / "out", without=("_rid",))) == {name for name, (_, why) in files.items() if not why}


# ------------------------------------------------------------------------------------------------ failure budget


@pytest.mark.parametrize(
    ("count", "share", "bad", "photos", "stops"),
    [
        (0, 0.0, 0, 100, False),
        (0, 0.0, 1, 100, True),
        (10, 0.1, 11, 200, False),  # above the count, within the share
        (10, 0.1, 10, 20, False),  # above the share, within the count
        (10, 0.1, 11, 110, False),  # both just reached
        (10, 0.1, 11, 109, True),
        (0, 1.0, 100, 100, False),
        (10**9, 0.0, 100, 100, False),
    ],
)
def test_a_run_stops_above_the_count_and_the_share(
    count: int, share: float, bad: int, photos: int, stops: bool
) -> None:
    policy = ProtectionPolicy(max_quarantined=count, max_quarantined_share=share)
    outcomes = Counter({"protected": photos - bad, "quarantined": bad, "quarantined:truncated": bad})
    if not stops:
        check_failure_budget(policy, outcomes, photos)
        return
    with pytest.raises(FailureBudgetExceeded, match=f"{bad} of {photos} photos are quarantined .{bad} truncated"):
        check_failure_budget(policy, outcomes, photos)


def test_skipped_photos_do_not_count_as_failures() -> None:
    outcomes = Counter({"skipped": 90, "skipped:already_protected": 90, "protected": 10})
    check_failure_budget(ProtectionPolicy(max_quarantined=0, max_quarantined_share=0.0), outcomes, 100)


def stopped_run(tmp_path: Path):
    """A run over 130 photos and 40 bad files that its failure budget stopped."""
    write_photos(tmp_path / "photos", 130)
    for i in range(40):
        Storage(str(tmp_path / "photos")).write_bytes(f"bad{i:02d}.jpg", f"no picture {i}".encode())
    policy = ProtectionPolicy(max_quarantined=20, max_quarantined_share=0.1)
    request = request_for(tmp_path / "photos", tmp_path / "out", tmp_path / "defender", policy=policy)
    with pytest.raises(FailureBudgetExceeded):
        run(request)
    return request


def test_a_stopped_run_keeps_what_is_done(tmp_path: Path) -> None:
    request = stopped_run(tmp_path)
    done = tree(tmp_path / "out", without=("_rid",))
    assert 0 < len(done) < 130 and not request.target.receipts.exists()
    for i in range(40):
        (tmp_path / "photos" / f"bad{i:02d}.jpg").unlink()
    summary = run(request)
    assert (summary.protected, summary.quarantined) == (130, {})
    assert done.items() <= tree(tmp_path / "out", without=("_rid",)).items()


def test_a_raised_budget_goes_on_from_what_is_done(tmp_path: Path) -> None:
    request = stopped_run(tmp_path)
    relaxed = replace(request, policy=ProtectionPolicy(max_quarantined=40, max_quarantined_share=0.1))
    summary = run(relaxed)
    assert (summary.protected, summary.quarantined) == (130, {"unsupported_format": 40})
    assert summary.photos_computed < 130


# ---------------------------------------------------------------------------------------------------------- retry


def test_rid_protect_retries_one_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rid.dagster_project import cli

    write_tiny_defender(tmp_path / "defender")
    write_photos(tmp_path / "photos", 3)
    (tmp_path / "photos" / "text.jpg").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.signal, "signal", lambda *_: None)

    def rid(*options: str) -> tuple[int, dict]:
        command = ["rid", "protect", "photos", "out", "--defender", "defender", "--workers", "0", "--json", *options]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as leaving:
            cli.main()
        return int(leaving.value.code or 0), json.loads(capsys.readouterr().out)

    real = Protector.protect

    def ill(self: Protector, data: bytes, name: str = "", **options: bool):
        if name == "p002.jpg":
            raise ArithmeticError("a defect of this day")
        return real(self, data, name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Protector, "protect", ill)
        code, summary = rid()
        assert (code, summary["quarantined"]) == (3, {"internal_error": 1, "unsupported_format": 1})
    assert rid()[1]["quarantined"] == {"internal_error": 1, "unsupported_format": 1}
    assert rid("--retry", "unsupported_format")[1]["quarantined"] == {"internal_error": 1, "unsupported_format": 1}
    assert not (tmp_path / "out" / "p002.jpg").exists()
    code, summary = rid("--retry", "internal_error")
    assert (code, summary["quarantined"], summary["photos_computed"]) == (3, {"unsupported_format": 1}, 1)
    assert (tmp_path / "out" / "p002.jpg").exists()
    assert rid("--retry", "internal_error")[1]["committed"] is False


def test_operations_says_what_every_status_and_reason_means() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    named = {cell for line in text.splitlines() if line.startswith("|") for cell in re.findall(r"`(\w+)`", line)}
    assert {*Status, *Reason} <= named
