"""The demo's folders."""

from __future__ import annotations

SOURCE, HOME, DAGSTER, PIPELINES, FILES, STRIP = "photos", "home", "dagster", "pipelines", "protected", "strip.jpg"
