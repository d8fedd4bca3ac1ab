"""The HTML templates of this package: what came from outside is escaped, and a name that is not there is an error."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def html_template(name: str) -> Any:
    """Returns a template by its path under `assets/`; its filter `signed` shows a change with its sign."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rid.assets", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signed"] = "{:+.4f}".format
    return environment.get_template(name)
