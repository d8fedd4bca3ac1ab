"""One unit of a study: one person under one cell. Attacks, draws, and says what was seen.

A unit is named by everything that decides it, so that a study that was stopped goes on where it was, and a
changed defender, recipe or photo is measured anew. Files hold embeddings, numbers, and a strip of pictures for the
local contact sheet; they show research subjects, and stay where they are made.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.checkpoint import file_sha256, load_defender
from models.defender import Defender
from models.frozen_diffusion import FrozenDiffusion, load_frozen_diffusion
from training.evaluation.attacker_transforms import transform_photos
from training.evaluation.identity import FaceEmbedder, dlib_embedder
from training.evaluation.people import Person, read_squares, squares_digest
from training.evaluation.picture_quality import picture_quality
from training.evaluation.study_cells import CLEAN, UNTRAINED, Cell
from training.evaluation.study_protection import protect_photos, teacher_config
from training.personalization.attack import Attacker, personalise, prepare
from training.personalization.config import personalization_recipe
from training.personalization.pipeline import TextToImage, draw, load_text_to_image

STUDY_EPOCH = 1  # raised when the same inputs give other results


class TooFewPhotos(ValueError):
    """A person without enough photos that show a face."""


@dataclass(frozen=True)
class StudySettings:
    """What all units share.

    Attributes:
        photos: Parquet file of people.
        column: its identity column.
        models: folders or hub ids by the name that cells use; the first is what teachers and purifiers use.
        defenders: folders by the name that cells use.
        learned: photos of a person that the attacker has; the others are what the drawings are compared with.
        drawn: pictures drawn of a person.
        seed: of every draw; a unit's draws depend on it and on the person's photos.
    """

    photos: str
    column: str
    models: Mapping[str, str] = field(hash=False)
    defenders: Mapping[str, str] = field(hash=False)
    learned: int = 8
    drawn: int = 8
    seed: int = 0


@dataclass
class Study:
    """Loads what units need once a process."""

    settings: StudySettings
    embedder: FaceEmbedder = field(default_factory=dlib_embedder)
    _frozen: dict[str, FrozenDiffusion] = field(default_factory=dict)
    _attackers: dict[tuple[str, str], Attacker] = field(default_factory=dict)
    _models: dict[str, TextToImage] = field(default_factory=dict)
    _defenders: dict[str, Defender] = field(default_factory=dict)
    _squares: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def squares(self, person: Person) -> NDArray[np.uint8]:
        """The person's face squares; one person's are kept at a time."""
        if person.name not in self._squares:
            side = self.frozen(self.first).native_resolution
            self._squares = {person.name: read_squares(Path(self.settings.photos), person, self.embedder, side)}
        return self._squares[person.name]

    @cached_property
    def first(self) -> str:
        """Name of the first model."""
        return next(iter(self.settings.models))

    def frozen(self, name: str) -> FrozenDiffusion:
        """A model as a protector or a purifier sees it."""
        if name not in self._frozen:
            self._frozen[name] = load_frozen_diffusion(self.settings.models[name], name=name)
        return self._frozen[name]

    def model(self, name: str) -> TextToImage:
        """A model as an attacker has it."""
        if name not in self._models:
            self._models[name] = load_text_to_image(self.settings.models[name])
        return self._models[name]

    def attacker(self, name: str, recipe: str) -> Attacker:
        """A model and its class images."""
        if (name, recipe) not in self._attackers:
            self._attackers[name, recipe] = prepare(self.model(name), personalization_recipe(recipe))
        return self._attackers[name, recipe]

    def defender(self, name: str) -> Defender:
        """A defender of the study."""
        if name not in self._defenders:
            self._defenders[name] = load_defender(Path(self.settings.defenders[name]))[0]
        return self._defenders[name]

    def unit_digest(self, cell: Cell, person: Person) -> str:
        """Names a unit by everything that decides it."""
        settings = self.settings
        squares = self.squares(person)
        protected_by = {
            "defender": weights_of(settings.defenders[cell.name]) if cell.kind in ("defender", "noise") else None,
            "teacher": teacher_config(cell.name, cell.budget, settings.seed).digest()
            if cell.kind == "teacher"
            else None,
        }
        parts = {
            "epoch": STUDY_EPOCH,
            "cell": cell.key,
            "photos": squares_digest(squares[: settings.learned]),
            "recipe": personalization_recipe(cell.recipe).digest(),
            "models": [weights_of(settings.models[name]) for name in dict.fromkeys((cell.model, self.first))],
            "numbers": [settings.learned, settings.drawn, settings.seed],
            "embedder": self.embedder.name,
            **protected_by,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]

    def unit_name(self, cell: Cell, person: Person) -> str:
        """Name of a unit's file.

        Raises:
            TooFewPhotos: if the person cannot be studied.
        """
        squares = self.squares(person)
        if len(squares) < self.settings.learned + 2:
            raise TooFewPhotos(
                f"{person.name} has {len(squares)} photos with a face; a study needs {self.settings.learned} to learn "
                "from and 2 to compare with"
            )
        return f"{self.unit_digest(cell, person)}.json"

    def measure(self, cell: Cell, person: Person) -> dict[str, Any]:
        """Protects, attacks, draws; returns the unit's content."""
        settings, squares = self.settings, self.squares(person)
        clean = squares[: settings.learned]
        config = personalization_recipe(cell.recipe)
        seed = settings.seed + int(squares_digest(clean)[:8], 16)
        began = time.process_time()
        photos = protect_photos(
            cell, clean, self.frozen(self.first), self.defender, seed=seed, teacher_seed=settings.seed
        )
        protecting = time.process_time() - began
        quality = picture_quality(clean, photos) if cell.kind not in (CLEAN, UNTRAINED) else {}
        photos = transform_photos(photos, cell.transform, self.frozen(self.first), seed)
        began = time.process_time()
        personal, prompt = self.model(cell.model), config.prompt
        if cell.kind != UNTRAINED:
            personal = personalise(self.attacker(cell.model, cell.recipe), photos, config)
        elif config.method != "dreambooth":
            prompt = config.class_prompt  # the new word does not exist yet
        drawn = draw(
            personal, prompt, settings.drawn, seed=seed, sampler_steps=config.sampler_steps, guidance=config.guidance
        )
        return {
            "cell": cell.key,
            "person": person.name,
            "embeddings": [_listed(self.embedder.embed(picture)) for picture in drawn],
            "references": [_listed(self.embedder.embed(photo)) for photo in squares[settings.learned :]],
            "quality": quality,
            "protecting_seconds": round(protecting, 3),
            "attacking_seconds": round(time.process_time() - began, 1),
            "strip": _png(np.concatenate([*photos[:4], *drawn[:4]], axis=1)),
        }

    def person_name(self, person: Person) -> str:
        """Name of the file of a development person."""
        return f"person-{squares_digest(self.squares(person))[:32]}.json"

    def embed_person(self, person: Person) -> dict[str, Any]:
        """Returns the embeddings of a development person's squares."""
        embeddings = [_listed(self.embedder.embed(square)) for square in self.squares(person)]
        return {"person": person.name, "embedder": self.embedder.name, "embeddings": embeddings}


def weights_of(location: str) -> str:
    """Digest of a folder's weights; of a hub id, the id itself."""
    folder = Path(location)
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        return location
    return hashlib.sha256("".join(file_sha256(file) for file in files).encode()).hexdigest()


def _listed(embedding: NDArray[np.float64] | None) -> list[float] | None:
    return None if embedding is None else [round(float(value), 6) for value in embedding]


def _png(picture: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
