"""One unit of a study: one person under one cell. Attacks, draws, and measures how pictures look.

A unit is named by everything that decides it, so that a study that was stopped goes on where it was, and a
changed defender, recipe or photo is measured anew. Who is on the pictures is described in files of their own. Units
hold numbers and pictures; they show research subjects, and stay where they are made.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rid.models.checkpoint import file_sha256, load_defender
from rid.models.frozen_diffusion import FrozenDiffusion, load_frozen_diffusion
from rid.models.networks import Network
from rid.training.evaluation.attackers.restoration import RestorationNetwork, restoration_64, train_restoration
from rid.training.evaluation.attackers.transforms import transform_photos
from rid.training.evaluation.attackers.upscaling import load_upscaler
from rid.training.evaluation.cells import CLEAN, RESTORE, UNTRAINED, UPSCALE, Cell
from rid.training.evaluation.effect.perturbation_analysis import AnalysisConfig, analyse_photos
from rid.training.evaluation.effect.protected_photos import protect_photos, teacher_config
from rid.training.evaluation.judges.identity import FaceEmbedder
from rid.training.evaluation.judges.onnx_embedder import face_embedder
from rid.training.evaluation.judges.picture_quality import naturalness, picture_quality
from rid.training.evaluation.study.descriptions import Describer, Faces, InceptionLook
from rid.training.evaluation.study.people import Person, read_squares, squares_digest
from rid.training.evaluation.study.picture_strips import pack
from rid.training.evaluation.study.settings import StudySettings
from rid.training.personalization.attack import Attacker, personalise, prepare
from rid.training.personalization.config import personalization_recipe
from rid.training.personalization.pipeline import TextToImage, draw, load_text_to_image

if TYPE_CHECKING:
    from diffusers import StableDiffusionUpscalePipeline

STUDY_EPOCH = 2  # raised when the same inputs give other results


class TooFewPhotos(ValueError):
    """A person without enough photos that show a face."""


@dataclass
class Study:
    """Loads what units need once a process."""

    settings: StudySettings
    _frozen: dict[str, FrozenDiffusion] = field(default_factory=dict)
    _attackers: dict[tuple[str, str], Attacker] = field(default_factory=dict)
    _models: dict[str, TextToImage] = field(default_factory=dict)
    _defenders: dict[str, Network] = field(default_factory=dict)
    _squares: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def squares(self, person: Person) -> NDArray[np.uint8]:
        """The person's face squares; one person's are kept at a time."""
        if person.name not in self._squares:
            side = self.frozen(self.first).native_resolution
            self._squares = {person.name: read_squares(Path(self.settings.photos), person, self.embedder, side)}
        return self._squares[person.name]

    @cached_property
    def embedder(self) -> FaceEmbedder:
        """Returns the network that finds and describes faces."""
        return face_embedder(self.settings.embedder)

    @cached_property
    def describers(self) -> list[Describer]:
        """Returns what describes each picture of the study."""
        look = [InceptionLook(Path(self.settings.inception))] if self.settings.inception else []
        return [Faces(self.embedder), *look]

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

    def defender(self, name: str) -> Network:
        """A defender of the study."""
        if name not in self._defenders:
            self._defenders[name] = load_defender(Path(self.settings.defenders[name]))[0]
        return self._defenders[name]

    @cached_property
    def upscaler(self) -> StableDiffusionUpscalePipeline | None:
        """Returns the model an attacker enlarges photos with, if not the first."""
        return load_upscaler(self.settings.upscaler) if self.settings.upscaler else None

    @cached_property
    def pair_squares(self) -> NDArray[np.uint8]:
        """Face squares that the attacker who holds the first defender trains on."""
        file = Path(self.settings.pair_photos or self.settings.photos)
        side = self.frozen(self.first).native_resolution
        return read_squares(file, Person("", tuple(self.settings.pair_rows)), self.embedder, side)

    @cached_property
    def restoration(self) -> RestorationNetwork:
        """Returns that attacker's restoration network; trained here unless another worker's was put in its place."""
        judged = next(iter(self.settings.defenders))
        return train_restoration(self.defender(judged), self.pair_squares, restoration_64())[0]

    @cached_property
    def restoration_digest(self) -> str:
        """Names the restoration network by its defender, recipe and photos."""
        judged = next(iter(self.settings.defenders.values()))
        parts = [weights_of(judged), restoration_64().digest(), squares_digest(self.pair_squares)]
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:40]

    def transformation_parts(self, cell: Cell) -> dict[str, str]:
        """Returns what decides a cell's transformation beside its name, the seed and the first model."""
        if cell.transform == RESTORE:
            return {"restoration": self.restoration_digest}
        if cell.transform == UPSCALE and self.settings.upscaler:
            return {"upscaler": weights_of(self.settings.upscaler)}
        return {}

    def transformed(self, cell: Cell, photos: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Returns photos as the cell's attacker learns from them."""
        return transform_photos(
            photos,
            cell.transform,
            self.frozen(self.first),
            seed,
            upscaler=self.upscaler if cell.transform == UPSCALE else None,
            restoration=self.restoration if cell.transform == RESTORE else None,
        )

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
            **protected_by,
            **self.transformation_parts(cell),
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
        """Protects, attacks, draws; returns the unit's content: numbers, four photos and all drawings."""
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
        if cell.kind != UNTRAINED:
            quality |= naturalness("brisque", photos)
        photos = self.transformed(cell, photos, seed)
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
            "quality": quality | naturalness("drawn_brisque", drawn),
            "protecting_seconds": round(protecting, 3),
            "attacking_seconds": round(time.process_time() - began, 1),
            "photos": pack(list(photos[:4])),
            "drawn": pack(list(drawn)),
        }

    def analysis_name(self, cells: Sequence[Cell], person: Person) -> str:
        """Name of the file of `analyse`.

        Raises:
            TooFewPhotos: if the person cannot be studied.
        """
        parts = [AnalysisConfig().digest(), *(self.unit_name(cell, person) for cell in cells)]
        return f"analysis-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]}.json"

    def analyse(self, cells: Sequence[Cell], person: Person) -> dict[str, Any]:
        """Looks at a person's photos under some cells: diffusion loss by time step, and spectrum."""
        settings, config = self.settings, AnalysisConfig()
        clean = self.squares(person)[: settings.learned]
        return analyse_photos(
            cells,
            clean[: config.photos],
            self.frozen(self.first),
            self.defender,
            config,
            seed=settings.seed + int(squares_digest(clean)[:8], 16),
            teacher_seed=settings.seed,
        )

    def person_name(self, person: Person) -> str:
        """Names the squares of a person."""
        return f"person-{squares_digest(self.squares(person))[:32]}"


def weights_of(location: str) -> str:
    """Digest of a folder's weights; of a hub id, the id itself."""
    folder = Path(location)
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        return location
    return hashlib.sha256("".join(file_sha256(file) for file in files).encode()).hexdigest()
