import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_catalogs import photo_bytes
from tiny_defender import write_tiny_defender

from rid.assets.reports.preview import CAPTION, GAP, TILE, preview, strengths
from rid.dagster_project.commands.preview import parse_levels, protectors
from rid.resources.defender_registry import DefenderRegistry
from rid.resources.storage import Storage


def test_a_column_a_strength_and_a_growing_change(tmp_path: Path) -> None:
    write_tiny_defender(tmp_path / "defender")
    entry = DefenderRegistry(Storage(str(tmp_path / "home")), tmp_path / "none").resolve(str(tmp_path / "defender"))
    data = photo_bytes(1, "PNG", side=600)
    made = strengths(data, "p.png", [2, 8], protectors(entry))
    assert [strength.budget_levels for strength in made] == [2, 8]
    assert [strength.photo.linf_levels for strength in made if strength.photo] == [2, 8]
    picture = np.asarray(Image.open(io.BytesIO(preview(data, made))))
    whole = round(592 * TILE / 600)
    assert picture.shape == (CAPTION + whole + 2 * TILE + 3 * GAP, 3 * TILE + 4 * GAP, 3)
    bottom = picture[-GAP - TILE : -GAP].astype(int) - 128
    columns = [bottom[:, GAP + i * (TILE + GAP) :][:, :TILE] for i in range(3)]
    assert not columns[0].any()
    assert abs(columns[1]).max() == 2 * (127 // 8)
    assert abs(columns[2]).max() == 8 * (127 // 8)


def test_a_photo_that_is_refused_says_why(tmp_path: Path) -> None:
    write_tiny_defender(tmp_path / "defender")
    entry = DefenderRegistry(Storage(str(tmp_path / "home")), tmp_path / "none").resolve(str(tmp_path / "defender"))
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "PNG")
    (made,) = strengths(out.getvalue(), "p.png", [4], protectors(entry))
    assert made.photo is None
    assert "too_small" in made.refusal
    assert Image.open(io.BytesIO(preview(out.getvalue(), [made]))).size[0] == 2 * TILE + 3 * GAP


def test_the_command_writes_one_picture(rid, tmp_path: Path) -> None:
    (tmp_path / "p.jpg").write_bytes(photo_bytes(1))
    code, out, _ = rid("preview", "p.jpg", "--defender", "defender", "--levels", "4,6")
    assert code == 0
    assert "4 levels  PSNR" in out and "6 levels  PSNR" in out and "p-preview.png" in out
    assert Image.open(tmp_path / "p-preview.png").format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("gone.jpg",), "gone.jpg"),
        (("p.jpg", "--levels", "4,x"), "whole numbers"),
        (("p.jpg", "--levels", ""), "0 strengths"),
        (("p.jpg", "--levels", "99"), "not 99"),
        (("p.png", "--out", "p.png"), "the photo itself"),
        (("p.jpg", "--out", "p.jpg"), "has to end in .png"),
        (("text.jpg",), "cannot be decoded"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(rid, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    for name in ("p.jpg", "p.png"):
        (tmp_path / name).write_bytes(photo_bytes(1))
    (tmp_path / "text.jpg").write_text("no picture")
    code, _, err = rid("preview", *arguments, "--defender", "defender")
    assert code == 5
    assert says in err and err.count("\n") == 1


def test_levels_are_read() -> None:
    assert parse_levels("2, 4,6,") == [2, 4, 6]
