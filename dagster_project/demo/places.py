"""The demo's folders."""

from __future__ import annotations

SOURCE, HOME, DAGSTER, FILES, STRIP = "photos", "home", "dagster", "protected", "strip.jpg"
