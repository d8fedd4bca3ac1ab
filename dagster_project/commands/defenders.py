"""`rid defenders`: which defenders there are, and which one a name means."""

from __future__ import annotations

import json

from dagster_project import exit_codes
from dagster_project.settings import registry


def list_defenders(*, as_json: bool) -> int:
    """Prints every defender with its aliases, budget and licence."""
    entries = registry().entries()
    if as_json:
        print(json.dumps([{"aliases": entry.aliases, "location": entry.location, **entry.config} for entry in entries]))
        return exit_codes.OK
    for entry in entries:
        span = entry.config["budget"]
        print(f"{entry.digest[:12]}  {entry.name}  {', '.join(entry.aliases) or '-'}")
        print(f"    budget {span['min']}-{span['max']} levels, default {span['default']}; {entry.config['licence']}")
        print(f"    {entry.config['description']}")
    return exit_codes.OK


def promote(name: str) -> int:
    """Makes a defender the default."""
    entry = registry().promote(name)
    print(f"default is now {entry.name} {entry.digest[:12]}: drops protected by another defender are outdated")
    return exit_codes.OK
