"""One partition is one drop: one new set of photos, never one photo."""

from __future__ import annotations

from dagster import DynamicPartitionsDefinition

DROPS = "drops"

drops = DynamicPartitionsDefinition(name=DROPS)
