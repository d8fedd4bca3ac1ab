"""Settings from the environment; read when asked, never at import."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from rid.resources.rid_home import RidHome
from rid.resources.storage import Storage

WEIGHTS = Path(__file__).resolve().parents[1] / "models" / "weights"


def home_of(environ: Mapping[str, str]) -> str:
    """RID_HOME, a folder or an s3 prefix; by default a folder of the user's."""
    return environ.get("RID_HOME") or str(Path.home() / ".local" / "share" / "rid")


def rid_home() -> RidHome:
    """RID_HOME of this process, and the weights that ship."""
    return RidHome(Storage(home_of(os.environ)), WEIGHTS)
