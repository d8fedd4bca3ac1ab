"""The objective of each teacher, by the name a configuration gives it."""

from __future__ import annotations

from training.teachers.advdm import advdm_objective
from training.teachers.pgd import Objective
from training.teachers.sds import sds_objective

OBJECTIVES: dict[str, Objective] = {"advdm": advdm_objective, "sds": sds_objective}
