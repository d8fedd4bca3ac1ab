"""The settings of a study that all of its units share. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StudySettings:
    """The settings that all units share.

    Attributes:
        photos: Parquet file of people.
        column: its identity column.
        models: folders or hub ids by the name that cells use; the first is what teachers and purifiers use.
        defenders: folders by the name that cells use.
        learned: photos of a person that the attacker has; the others are what the drawings are compared with.
        drawn: pictures drawn of a person.
        seed: of every draw; a unit's draws depend on it and on the person's photos.
        embedder: ONNX file of the face network; dlib's if empty.
        inception: file of FID's Inception-v3; none if empty.
        upscaler: folder or hub id of a diffusers upscaling pipeline; the first model enlarges if empty.
        pair_photos: Parquet file of the photos that the attacker who holds the first defender protects; `photos` if
            empty.
        pair_rows: which of its rows; none of a person that is studied.
    """

    photos: str
    column: str
    models: Mapping[str, str] = field(hash=False)
    defenders: Mapping[str, str] = field(hash=False)
    learned: int = 8
    drawn: int = 8
    seed: int = 0
    embedder: str = ""
    inception: str = ""
    upscaler: str = ""
    pair_photos: str = ""
    pair_rows: tuple[int, ...] = ()
