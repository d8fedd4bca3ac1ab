import io
from collections import Counter
from pathlib import Path

import pytest
from metadata_blocks import exif_block
from odd_photos import photograph
from PIL import PngImagePlugin
from small_catalogs import HERE, request_for, run, write_photos
from tiny_defender import write_tiny_defender

from rid.assets.catalog.plan import read_current
from rid.assets.checks import WHAT, DropCounts, check_drop, check_look, check_metadata
from rid.assets.custody.kept_metadata import compare_metadata
from rid.assets.custody.shard_verification import Verified
from rid.assets.protected_catalog import verify
from rid.assets.shown_columns import MEANINGS
from rid.models.policy import ProtectionPolicy
from rid.resources.dask_workers import Workers
from rid.resources.schemas import CATALOG, RECEIPTS

SOUND = DropCounts(10, 10, 10, 1)
GOOD = Verified(shards=2, published=9, psnr=[40.0] * 9, ssim=[0.99] * 9)


def failed(counts: DropCounts = SOUND, verified: Verified = GOOD) -> set[str]:
    return {o.check for o in check_drop(counts, verified, ProtectionPolicy(max_quarantined=2), 6) if not o.passed}


def test_a_drop_as_it_should_be_passes_every_check() -> None:
    outcomes = list(check_drop(SOUND, GOOD, ProtectionPolicy(), 6))
    assert {outcome.check for outcome in outcomes} == set(WHAT)
    assert failed() == set()


@pytest.mark.parametrize(
    ("counts", "verified", "check"),
    [
        (DropCounts(10, 9, 10, 1), {}, "every_photo_has_a_status"),
        (DropCounts(10, 10, 9, 1), {}, "every_photo_has_a_status"),
        (DropCounts(10, 10, 10, 3), {}, "quarantine_is_within_budget"),
        (None, {"findings": Counter(changed=1)}, "every_output_is_as_recorded"),
        (None, {"findings": Counter(budget=1)}, "budget_is_kept"),
        (None, {"over_budget": 1}, "budget_is_kept"),
        (None, {"leaking": 1}, "metadata_is_kept"),
        (None, {"metadata_lost": Counter(EXIF=1)}, "metadata_is_kept"),
        (None, {"psnr": [25.0] * 9}, "look_is_within_policy"),
        (None, {"visible_share": [0.0] * 4 + [0.2] * 5}, "look_is_within_policy"),
    ],
)
def test_each_check_fails_for_its_own_reason(counts: DropCounts | None, verified: dict, check: str) -> None:
    assert failed(counts or SOUND, Verified(**(vars(GOOD) | verified))) == {check}


def test_what_loses_or_leaks_a_photo_blocks_and_the_rest_does_not() -> None:
    assert check_metadata(Verified(shards=1, leaking=1)).blocks
    assert not check_metadata(Verified(shards=1, metadata_lost=Counter(EXIF=1))).blocks
    assert not check_look(Verified(shards=1, psnr=[20.0]), 6, ProtectionPolicy()).blocks
    assert [name for name, (blocking, _) in WHAT.items() if blocking] == list(WHAT)[:4]


def test_shards_are_read_back_from_the_table(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 5)
    write_photos(tmp_path / "photos", 3, first=10, kind="PNG")
    (tmp_path / "photos" / "text.jpg").write_text("no picture")
    write_tiny_defender(tmp_path / "defender")
    request = request_for(tmp_path / "photos", tmp_path / "table", tmp_path / "defender", target_kind="table")
    run(request)
    table, catalog = request.target.receipts, read_current(request.target.state, "d1")

    def read_back() -> Verified:
        with Workers(HERE) as workers:
            return verify(request, catalog, list(table.live_files("d1").values()), request.salt(), workers)

    found = read_back()
    assert (found.shards, found.published, found.statuses) == (1, 8, Counter(protected=8, quarantined=1))
    assert (found.budgets_measured, found.metadata_compared, found.leaking) == (3, 8, 0)
    assert not found.findings and not found.metadata_lost and not found.over_budget
    assert len(found.psnr) == len(found.ssim) == len(found.visible_share) == 8
    (path,) = table.live_files("d1")
    data = bytearray(table.storage.read_bytes(path))
    data[len(data) // 2] ^= 1
    table.storage.write_bytes(path, bytes(data))
    assert read_back().findings["changed"] == 1
    table.storage.delete(path)
    assert read_back().findings["missing"] == 1


def jpeg(*, thumbnail: bytes = b"", orientation: int = 6, dpi: int = 300, icc: bytes = b"") -> bytes:
    exif = b"Exif\x00\x00" + exif_block(orientation=orientation, thumbnail=thumbnail)
    out = io.BytesIO()
    photograph().save(out, "JPEG", exif=exif, dpi=(dpi, dpi), **({"icc_profile": icc} if icc else {}))
    return out.getvalue()


def test_lost_metadata_is_named() -> None:
    plain = io.BytesIO()
    photograph().save(plain, "JPEG")
    assert compare_metadata(jpeg(), jpeg()).lost == ()
    assert set(compare_metadata(jpeg(), plain.getvalue()).lost) == {"EXIF", "orientation", "resolution"}
    assert compare_metadata(jpeg(icc=b"profile"), jpeg()).lost == ("colour profile",)
    assert compare_metadata(jpeg(), jpeg(orientation=3)).lost == ("orientation",)
    assert compare_metadata(jpeg(), plain.getvalue(), ("metadata_damaged",)).lost == ()


def test_a_thumbnail_is_found() -> None:
    plain = io.BytesIO()
    photograph().save(plain, "JPEG")
    assert not compare_metadata(jpeg(), jpeg()).leaks
    assert compare_metadata(jpeg(), jpeg(thumbnail=plain.getvalue())).leaks


def test_xmp_of_a_png_counts() -> None:
    with_xmp, without = io.BytesIO(), io.BytesIO()
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    photograph().save(with_xmp, "PNG", pnginfo=info)
    photograph().save(without, "PNG")
    assert compare_metadata(with_xmp.getvalue(), without.getvalue()).lost == ("XMP",)


def test_every_column_is_described() -> None:
    assert {*CATALOG.names, *RECEIPTS.names} <= set(MEANINGS)
