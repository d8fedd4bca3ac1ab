"""People and an attack for studies that take seconds."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from odd_photos import shipped

from rid.training.personalization import config as personalization


def astronaut(index: int) -> np.ndarray:
    """One of several crops of one portrait."""
    return np.ascontiguousarray(shipped("astronaut")[index : 230 + index, 110 - index : 340 - index])


QUICK = replace(personalization.dreambooth_64(), steps=2, batch=2, sampler_steps=2)


def write_people(file: Path, people: dict[str, list[np.ndarray]]) -> Path:
    rows = []
    for name, photos in people.items():
        for photo in photos:
            coded = cv2.imencode(".png", cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))[1].tobytes()
            rows.append({"image": {"bytes": coded, "path": None}, "identity": name})
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=3)
    return file


def looks(name: int) -> list[np.ndarray]:
    """A "person": the portrait in other colours, mirrored or not."""
    gain = np.array([1.0 - 0.1 * name, 1.0, 0.7 + 0.1 * name])
    photos = [np.clip(astronaut(2 * i) * gain, 0, 255).astype(np.uint8) for i in range(5)]
    return [np.ascontiguousarray(photo[:, ::-1]) for photo in photos] if name % 2 else photos
