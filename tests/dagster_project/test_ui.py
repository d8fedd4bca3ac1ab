"""An operator's work in a real Chromium: Dagster on photos that lie in a real S3 store.

`RID_SCREENSHOTS=1` replaces the pictures under docs/.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import GROUP, DagsterPages, browser_page, chromium, screenshot
from services import missing_service

from rid.assets import protected_catalog
from rid.assets.checks import WHAT
from rid.dagster_project.dagster_dev import DagsterDev, free_port
from rid.dagster_project.demo.catalog import GUISES, encode
from rid.dagster_project.drop_runs import FIRST, LAST, ONE
from rid.resources.storage import Storage

pytestmark = pytest.mark.ui
ROOT = Path(__file__).parents[2]
DROPS = {"portraits": "portraits/", "events": "events/", "studio": "portraits/small"}
LARGE = 1_500_000  # pixels; larger photos of the demo are left out


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ROOT / "docs" if os.environ.get("RID_SCREENSHOTS") == "1" else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="module")
def pages(s3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterPages]:
    if chromium() is None:
        missing_service("no Chromium is on PATH: install the package chromium")
    home = tmp_path_factory.mktemp("dagster")
    place = f"s3://{s3.bucket}/operator"
    for drop, beginning in DROPS.items():
        for guise in GUISES:
            if guise.name.startswith(beginning) and guise.size[0] * guise.size[1] <= LARGE:
                Storage(f"{place}/photos").write_bytes(f"{drop}/{Path(guise.name).name}", encode(guise))
    Storage(f"{place}/photos").write_bytes("portraits/price-list.jpg", b"Prints 10x15: 0.49\n")
    Storage(f"{place}/home").write_bytes("policy.json", b'{"max_visible_share": 1}')  # looks are judged elsewhere
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RID_HOME": f"{place}/home",
        "RID_SOURCE": f"{place}/photos",
        "RID_CACHE": str(tmp_path_factory.mktemp("cache")),
        "DAGSTER_HOME": str(home),
    }
    for drop in DROPS:
        command = [sys.executable, "-m", "rid.dagster_project.cli", "drops", "add", drop]
        subprocess.run(command, env=environment, cwd=home, check=True, capture_output=True)
    with DagsterDev(home, environment, free_port(3500)) as dagster, browser_page() as page:
        yield DagsterPages(page, dagster.url)


def test_the_asset_graph_is_there(pages: DagsterPages) -> None:
    names = ("photo_catalog", "protected_catalog", "protection_report", "promoted_defender", "protection_policy")
    pages.open(GROUP, *names)
    pages.open("/assets/protected_catalog", str(protected_catalog.SPEC.description), "output_sha256")


def test_a_drop_is_materialised_by_clicking(pages: DagsterPages, shots: Path) -> None:
    pages.launch(["portraits"], "Launch 1 run")
    run = pages.wait_for_run(1)
    assert (run["status"], run["tags"][ONE]) == ("SUCCESS", "portraits")
    pages.open("/assets/protected_catalog?view=partitions&partition=portraits", "Materialized", "photos")
    screenshot(pages.page, shots, "ui-drop", "photos")


def test_its_checks_pass(pages: DagsterPages, shots: Path) -> None:
    pages.open("/assets/protected_catalog?view=checks", *WHAT)
    assert pages.page.get_by_text("Succeeded", exact=True).count() == len(WHAT)
    assert pages.page.get_by_text("Failed", exact=True).count() == 0
    screenshot(pages.page, shots, "ui-checks", "budget_is_kept")


def test_pictures_are_drawn(pages: DagsterPages) -> None:
    for asset, pictures in (("protected_catalog", 1), ("protection_report", 2)):
        pages.open(f"/assets/{asset}?view=partitions&partition=portraits", "Materialized")
        widths = pages.show_pictures()
        assert len(widths) == pictures
        assert min(widths) > 500


def test_a_backfill_over_two_drops_is_one_run(pages: DagsterPages, shots: Path) -> None:
    pages.launch(["events", "studio"], "Launch backfill")
    run = pages.wait_for_run(2)
    assert run["status"] == "SUCCESS"
    assert (run["tags"][FIRST], run["tags"][LAST]) == ("events", "studio")
    assert len(pages.runs()) == 2
    pages.open(GROUP, "3 partitions")
    screenshot(pages.page, shots, "ui-assets", "3 partitions")
