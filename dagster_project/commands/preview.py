"""`rid preview`: one photo at several strengths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rid.dagster_project import exit_codes
from rid.dagster_project.exit_codes import InvalidRequest
from rid.dagster_project.settings import rid_home

if TYPE_CHECKING:
    from rid.models.protector import Protector
    from rid.resources.defender_registry import DefenderEntry


def preview(photo: str, *, out: Path | None, defender: str, levels: str) -> int:
    """Runs the command and returns its exit code."""
    from rid.assets.reports.preview import preview as draw
    from rid.assets.reports.preview import strengths
    from rid.resources.storage import Storage

    entry = rid_home().registry().resolve(defender)
    budgets = [entry.budget(level) for level in parse_levels(levels)]
    folder, name = Storage(photo).as_parent_and_name()
    target = out or Path(f"{Path(name).stem}-preview.png")
    if target.suffix.lower() != ".png":
        raise InvalidRequest(f"--out {target} has to end in .png: a lossy picture would add to what is to be judged")
    if not folder.is_s3 and target.absolute() == Path(folder.uri(name)):
        raise InvalidRequest(f"--out {target} is the photo itself: choose another file")
    data = folder.read_bytes(name)
    made = strengths(data, name, budgets, protectors(entry))
    target.write_bytes(draw(data, made))
    for strength in made:
        if strength.photo is None:
            print(f"{strength.budget_levels:2} levels  {strength.refusal}")
        else:
            result = strength.photo
            print(
                f"{strength.budget_levels:2} levels  PSNR {result.psnr:.1f} dB, SSIM {result.ssim:.3f}, "
                f"seen in {result.visible_share:.0%} of the smooth areas, "
                f"{result.survival_gain:.2f} of the perturbation survives, {len(result.data)} bytes for {len(data)}"
            )
    print(f"{target}  by defender {entry.name}")
    return exit_codes.OK if any(strength.photo for strength in made) else exit_codes.QUARANTINED


def parse_levels(text: str) -> list[int]:
    """Reads budgets such as "2,4,6,8".

    Raises:
        ValueError: if one is no whole number, or there are none or more than eight.
    """
    try:
        levels = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise InvalidRequest(f"--levels {text!r} is not a list of whole numbers such as 2,4,6,8") from error
    if not 1 <= len(levels) <= 8:
        raise InvalidRequest(f"--levels {text!r} names {len(levels)} strengths: give 1 to 8")
    return levels


def protectors(entry: DefenderEntry) -> Callable[[int], Protector]:
    """Returns what makes the protector of a budget, under the default policy; the defender is loaded once."""
    from rid.models.engines import OnnxEngine
    from rid.models.policy import ProtectionPolicy
    from rid.models.protector import Protector
    from rid.resources.defender_registry import fetch_defender

    name = entry.onnx_file
    model = fetch_defender(entry.location, entry.digest, {name: entry.config["files"][name]})
    engine = OnnxEngine(model[name])
    return lambda budget_levels: Protector(engine, ProtectionPolicy(), budget_levels, entry.digest)
