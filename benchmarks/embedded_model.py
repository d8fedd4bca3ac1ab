"""Quality of an embedded text-to-image model: its autoencoder, its faces, and whether it repeats training photos.

    python -m benchmarks.embedded_model --photos FACES.parquet --model models/weights/embedded-64 [--sheet SHEET.png]

The sheet shows invented faces alone. Memorisation: the distance in pixels of each drawn face to its nearest training
photo, beside that of held-out photos to theirs; a model that repeats photos draws nearer than people look alike.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rid.training.embedded.faces import load_faces
from rid.training.embedded.train_autoencoder import HELD_OUT, held_out_psnr
from rid.training.evaluation.judges.identity import dlib_embedder
from rid.training.personalization.pipeline import draw, load_text_to_image

PROMPTS = (
    "photo of a 25 year old woman",
    "photo of a 60 year old man",
    "photo of a 5 year old girl",
    "photo of a person",
)


def nearest(pictures: np.ndarray, photos: np.ndarray) -> np.ndarray:
    """Root mean squared distance in levels of each of (N, S, S, 3) pictures to the nearest of (M, S, S, 3) photos."""
    x, y = (torch.from_numpy(part.reshape(len(part), -1).astype(np.float32)) for part in (pictures, photos))
    return (torch.cdist(x, y).min(dim=1).values / x.shape[1] ** 0.5).numpy()


def main() -> None:
    """Prints the figures of the model's card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="+", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    model = load_text_to_image(options.model)
    faces = load_faces(options.photos, model.resolution).pixels
    faces = faces[np.random.default_rng(0).permutation(len(faces))]
    held_out, trained = faces[:HELD_OUT], faces[HELD_OUT:]
    print(f"held-out PSNR {held_out_psnr(model.vae, held_out):.2f} dB over {len(held_out)} photos")
    each = options.count // len(PROMPTS)
    drawn = [draw(model, prompt, each, seed=options.seed + index) for index, prompt in enumerate(PROMPTS)]
    pictures = np.concatenate(drawn)
    embedder = dlib_embedder()
    found = {
        name: np.mean([embedder.embed(one) is not None for one in some])
        for name, some in (("drawn", pictures), ("held-out photos", held_out[: len(pictures)]))
    }
    print(", ".join(f"face found on {share:.0%} of {name}" for name, share in found.items()))
    for name, some in (("drawn faces", pictures), ("held-out photos", held_out[: len(pictures)])):
        distance = nearest(some, trained)
        print(f"nearest training photo of {name}: median {np.median(distance):.1f}, least {distance.min():.1f} levels")
    if options.sheet:
        rows = [np.concatenate(part[:8], axis=1) for part in drawn]
        Image.fromarray(np.concatenate(rows)).save(options.sheet)


if __name__ == "__main__":
    main()
