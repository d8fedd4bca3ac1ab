import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from odd_photos import encoded, photograph
from PIL import Image
from small_catalogs import HERE
from small_spaces import save_spaces
from tiny_defender import write_tiny_defender

from rid.assets.catalog.plan import read_current
from rid.assets.protection.request import ProtectionRequest
from rid.assets.protection.run import run_drop
from rid.assets.protection.targets import Target
from rid.assets.reports.drop_report import DISPLACEMENT, FIGURES, PAGE, ROWS, SHEET, ReportRequest, report_drop
from rid.assets.reports.pairs import PhotoPair
from rid.assets.reports.pictures import GAP, amplification, strip
from rid.models.policy import ProtectionPolicy
from rid.resources.dask_workers import Workers
from rid.resources.defender_registry import DefenderEntry, DefenderRegistry
from rid.resources.frozen.diffusion_sources import diffusion_sources
from rid.resources.frozen.latent_spaces import space_sources
from rid.resources.storage import Storage
from rid.training.evaluation.gates.figures import GateFigures
from rid.training.evaluation.judges.perceptual import perceptual_network

HOSTILE = '<img src=x onerror="alert(1)">.jpg'


def protected(tmp_path: Path, kind: str, place: str) -> ReportRequest:
    """Protects a few photos into a folder or a table, and asks for a report without models."""
    photos = tmp_path / "photos"
    photos.mkdir(exist_ok=True)
    for index in range(4):
        (photos / f"{index}.jpg").write_bytes(encoded(photograph(seed=index)))
    (photos / "=1+1.png").write_bytes(encoded(photograph(seed=5), "PNG"))
    (photos / HOSTILE).write_bytes(b"no photo")
    write_tiny_defender(tmp_path / "weights" / "default")
    registry = DefenderRegistry(Storage(str(tmp_path / "home")), tmp_path / "weights")
    target = Target(Storage(place), kind)  # type: ignore[arg-type]
    request = ProtectionRequest(
        source=Storage(str(photos)),
        target=target,
        drop="monday",
        defender=registry.resolve("default"),
        policy=ProtectionPolicy(),
        budget_levels=6,
    )
    with Workers(HERE) as workers:
        run_drop(request, workers)
    catalog = read_current(target.state, "monday")
    assert catalog is not None
    return ReportRequest(
        table=target.receipts,
        target=target.storage,
        drop="monday",
        catalog=catalog,
        folder=Storage(place).child("_rid", "_reports", "monday"),
        models=(),
        photos=4,
        shown=0,
        draws=2,
        seed=3,
        find_defender=registry.find,
    )


def make(request: ReportRequest):
    with Workers(HERE) as workers:
        return report_drop(request, workers)


@pytest.mark.parametrize("kind", ["files", "table"])
def test_a_report_counts_what_the_receipts_say_and_escapes_names(tmp_path: Path, place: str, kind: str) -> None:
    request = protected(tmp_path, kind, place)
    report = make(request)
    assert report.made
    assert (report.figures["photos"], report.figures["protected"], report.figures["quarantined"]) == (6, 5, 1)
    assert report.figures["reasons"] == {"unsupported_format": 1}
    assert 0 < report.figures["largest_change_levels"] <= 6
    assert report.figures["look"]["psnr"]["worst"] > 30
    page = request.folder.read_bytes(PAGE).decode()
    assert "onerror" in page
    assert HOSTILE not in page
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page), "a page that loads something is no page on its own"
    assert "No model was named" in page
    rows = list(csv.DictReader(io.StringIO(request.folder.read_bytes(ROWS).decode())))
    assert sorted(row["key"] for row in rows) == sorted(["0.jpg", "1.jpg", "2.jpg", "3.jpg", "'=1+1.png", HOSTILE])
    assert not request.folder.exists(SHEET)


def test_a_report_shows_how_its_defender_was_trained(tmp_path: Path) -> None:
    request = protected(tmp_path, "files", str(tmp_path / "out"))

    def trained(digest: str) -> DefenderEntry | None:
        entry = request.find_defender(digest)
        assert entry is not None
        losses = {"step": [0, 9], "adv_sds": [-0.1, -0.2], "regression": [0.3, 0.1]}
        return replace(entry, config={**entry.config, "training": {"losses": losses}})

    make(replace(request, find_defender=trained))
    page = request.folder.read_bytes(PAGE).decode()
    assert "How the defender was trained" in page and page.count("<svg") == 2


def test_a_report_of_an_unchanged_drop_is_left_alone_and_remade_when_it_changes(tmp_path: Path) -> None:
    request = protected(tmp_path, "files", str(tmp_path / "out"))
    make(request)
    before = {entry.path: entry.identity for entry in request.folder.list_files()}
    assert not make(request).made
    assert {entry.path: entry.identity for entry in request.folder.list_files()} == before
    with_sheet = replace(request, shown=2)
    assert make(with_sheet).made
    sheet = Image.open(io.BytesIO(request.folder.read_bytes(SHEET)))
    assert sheet.width > sheet.height / 2
    assert make(request).made
    assert not request.folder.exists(SHEET), "a sheet that nobody asks for any more shows people who opted out"
    (tmp_path / "photos" / "new.jpg").write_bytes(encoded(photograph(seed=9)))
    grown = protected(tmp_path, "files", str(tmp_path / "out"))
    report = make(grown)
    assert report.made
    assert report.figures["photos"] == 7


def test_a_strip_shows_the_change_amplified_around_grey() -> None:
    clean = np.full((64, 64, 3), 100, np.uint8)
    protected = clean.copy()
    protected[:, :32] += 6
    protected[:, 32:] -= 6
    picture = strip(PhotoPair("", clean, protected), budget_levels=6)
    assert picture.shape == (64, 3 * 64 + 2 * GAP, 3)
    assert np.array_equal(picture[:, :64], clean)
    assert np.array_equal(picture[:, 64 + GAP : 128 + GAP], protected)
    change = picture[:, -64:]
    assert (change[:, :32] == 128 + 6 * amplification(6)).all()
    assert (change[:, 32:] == 128 - 6 * amplification(6)).all()
    assert amplification(6) * 6 <= 127 < amplification(6) * 7


def test_protection_is_measured_against_noise_of_equal_norm(tmp_path: Path, pipelines: dict[str, Path]) -> None:
    request = protected(tmp_path, "files", str(tmp_path / "out"))
    models = tuple(diffusion_sources([str(folder) for folder in pipelines.values()], tmp_path))
    report = make(replace(request, models=models))
    effects = report.figures["protection"]
    assert [effect["model"] for effect in effects] == [folder.name for folder in pipelines.values()]
    for effect in effects:
        assert effect["photos"] == 4
        for name in ("protected", "gaussian", "signs", "over_gaussian", "over_signs"):
            assert effect[name]["low"] <= effect[name]["mean"] <= effect[name]["high"]
        assert effect["over_gaussian"]["mean"] == pytest.approx(
            effect["protected"]["mean"] - effect["gaussian"]["mean"]
        )
        lowest = min(effect[name]["low"] for name in ("protected", "over_gaussian", "over_signs"))
        assert effect["beats_noise"] == (lowest > 0)
    page = request.folder.read_bytes(PAGE).decode()
    claims = sum(effect["beats_noise"] for effect in effects)
    assert page.count("That is more than Gaussian noise") == claims
    assert page.count("That is not more than noise") == len(effects) - claims
    assert json.loads(request.folder.read_bytes(FIGURES))["protection"] == effects
    name, _ = perceptual_network()
    assert name.endswith("LPIPS alex") and f"{name}, of the sample" in page
    look = report.figures["look"][name]
    assert 0 < look["median"] <= look["worst"] < 1


def test_displacement_is_measured_in_latent_spaces_against_noise(tmp_path: Path) -> None:
    request = protected(tmp_path, "files", str(tmp_path / "out"))
    spaces = tuple(space_sources([str(folder) for folder in save_spaces(tmp_path)], tmp_path))
    asked = replace(request, spaces=spaces, space_side=64)
    report = make(asked)
    moved = report.figures["displacement"]
    assert [one["space"] for one in moved] == ["space-0", "space-1"]
    for one in moved:
        assert (one["photos"], one["side"]) == (4, 64)
        for name in ("displacement", "noise", "over_noise"):
            assert one[name]["low"] <= one[name]["mean"] <= one[name]["high"]
        assert one["over_noise"]["mean"] == pytest.approx(one["displacement"]["mean"] / one["noise"]["mean"])
        assert one["beats_noise"] == (one["over_noise"]["low"] > 1)
    page = request.folder.read_bytes(PAGE).decode()
    assert "in latent spaces" in page and "space-1" in page and "No model was named" not in page
    assert page.count("no farther than noise of equal norm") == sum(not one["beats_noise"] for one in moved)
    rows = list(csv.DictReader(io.StringIO(request.folder.read_bytes(DISPLACEMENT).decode())))
    assert len(rows) == 8 and len({row["key"] for row in rows}) == 4
    means = [np.mean([float(row["displacement"]) for row in rows if row["space"] == one["space"]]) for one in moved]
    assert means == pytest.approx([one["displacement"]["mean"] for one in moved], abs=1e-4)
    assert not make(asked).made
    assert make(request).made
    assert not request.folder.exists(DISPLACEMENT), "it names photos of a measurement that is not asked for any more"


def test_a_space_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    request = protected(tmp_path, "files", str(tmp_path / "out"))
    (folder,) = save_spaces(tmp_path, 1)
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="could not be loaded"):
        make(replace(request, spaces=tuple(space_sources([str(folder)], tmp_path)), space_side=64))


def test_a_report_says_whether_the_defender_passes_its_gates(tmp_path: Path) -> None:
    request = protected(tmp_path, "files", str(tmp_path / "out"))
    assert make(request).figures["gates"].startswith("not measured")
    assert not make(request).made
    assert "not measured: `rid defenders measure` does it" in request.folder.read_bytes(PAGE).decode()
    figures = GateFigures(3, 2, "ab" * 32, "engine", (), None)

    def measured(digest: str) -> DefenderEntry | None:
        entry = request.find_defender(digest)
        assert entry is not None
        return replace(entry, config={**entry.config, "measured": figures.to_json()})

    known = replace(request, find_defender=measured)
    assert make(known).made, "the page would say what was true before the defender was measured"
    assert "fails, measured on 3 photos of 2 people" in request.folder.read_bytes(PAGE).decode()
    assert not make(known).made


def test_photos_whose_originals_are_gone_are_not_measured(tmp_path: Path, pipelines: dict[str, Path]) -> None:
    request = protected(tmp_path, "files", str(tmp_path / "out"))
    for file in (tmp_path / "photos").iterdir():
        file.unlink()
    models = tuple(diffusion_sources([str(pipelines["epsilon"])], tmp_path))
    report = make(replace(request, models=models, shown=2))
    assert report.figures["protection"] == []
    assert "originals can be read, found 0" in report.figures["remarks"][0]
    assert not request.folder.exists(SHEET)


def test_a_drop_without_rows_gives_a_sentence(tmp_path: Path) -> None:
    request = replace(protected(tmp_path, "files", str(tmp_path / "out")), drop="tuesday")
    with pytest.raises(ValueError, match="no rows yet"):
        make(request)
