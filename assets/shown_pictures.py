"""Pictures in the metadata that Dagster shows."""

from __future__ import annotations

import base64

from dagster import MarkdownMetadataValue, MetadataValue


def inline_picture(title: str, data: bytes, kind: str) -> MarkdownMetadataValue:
    """A picture that the UI shows without a server of its own; `kind` is "png" or "jpeg"."""
    return MetadataValue.md(f"![{title}](data:image/{kind};base64,{base64.b64encode(data).decode()})")
