"""The rise of a model's diffusion loss by a defender, against noise of equal norm.

    python -m benchmarks.diffusion_loss --photos PHOTOS.parquet

Paired over photos, with fresh noise and time steps; 95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from rid.models.checkpoint import load_defender
from rid.models.frozen_diffusion import load_frozen_diffusion
from rid.training.embedded.faces import load_faces
from rid.training.evaluation.effect.defended import perturb_squares
from rid.training.evaluation.effect.protection_effect import protection_effect
from rid.training.evaluation.statistics import bootstrap_mean

WEIGHTS = Path(__file__).resolve().parents[1] / "models" / "weights"


@torch.no_grad()
def main() -> None:
    """Prints the loss on clean photos and what each perturbation adds to it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="+", type=Path, required=True)
    parser.add_argument("--count", type=int, default=96, help="photos, from the first row")
    parser.add_argument("--budget", type=int, default=6)
    parser.add_argument("--defender", type=Path, default=WEIGHTS / "default")
    parser.add_argument("--model", default=str(WEIGHTS / "embedded-64"))
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--seed", type=int, default=991)
    options = parser.parse_args()
    model = load_frozen_diffusion(options.model)
    defender, _ = load_defender(options.defender)
    clean = load_faces(options.photos, defender.size.working_resolution).pixels[: options.count]
    protected = (clean + perturb_squares(defender, clean, options.budget)).astype(np.uint8)
    losses = protection_effect(model, clean, protected, draws=options.draws, seed=options.seed)
    psnr = 10 * np.log10(255**2 / np.square(protected.astype(float) - clean).mean())
    print(
        f"clean     {bootstrap_mean(losses.clean)}  ({len(clean)} photos, budget {options.budget}, PSNR {psnr:.1f} dB)"
    )
    for name in ("protected", "gaussian", "signs"):
        print(f"{name:9} +{bootstrap_mean(getattr(losses, name) - losses.clean)}")


if __name__ == "__main__":
    main()
