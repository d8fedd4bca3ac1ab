"""The deployment, on one machine or a cluster: read from the environment when a code location is loaded.

`RID_DEPLOYMENT=local`, the default, starts Dask workers in each run and keeps everything in folders.
`RID_DEPLOYMENT=production` uses a running Dask scheduler over TLS, and refuses to load without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rid.dagster_project.drop_watch import Completeness
from rid.dagster_project.settings import WEIGHTS, home_of
from rid.resources.dask_cluster import DaskCluster
from rid.resources.dask_workers import check_scheduler
from rid.resources.places import Places

LOCAL, PRODUCTION = "local", "production"


@dataclass(frozen=True)
class Mail:
    """The addresses of alerts, and the server that mails them.

    Attributes:
        to: addresses.
        sender: address.
        host: of the SMTP server.
        port: of the SMTP server.
        user: at the SMTP server.
        password: at the SMTP server.
    """

    to: tuple[str, ...]
    sender: str
    host: str
    port: int
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Deployment:
    """The settings of this code location.

    Attributes:
        name: "local" or "production".
        places: where things are.
        dask: where tasks run.
        completeness: when a drop is complete.
        scan_seconds: how long one look at the source may take.
        cron: when outdated drops are protected again.
        timezone: of that.
        fresh_hours: how old the newest protected drop may be; 0 sets no limit.
        automation: whether sensors and schedules run as soon as the code location is loaded.
        webhook: where alerts are posted; empty posts none.
        mail: where alerts are mailed, or None.
    """

    name: str
    places: Places
    dask: DaskCluster
    completeness: Completeness
    scan_seconds: float
    cron: str
    timezone: str
    fresh_hours: float
    automation: bool
    webhook: str = field(repr=False)
    mail: Mail | None


def deployment(environ: Mapping[str, str]) -> Deployment:
    """Reads the environment.

    Raises:
        ValueError: with one sentence, if a variable is missing or has a value that is not allowed.
    """
    name = environ.get("RID_DEPLOYMENT") or LOCAL
    if name not in (LOCAL, PRODUCTION):
        raise ValueError(f"RID_DEPLOYMENT={name!r} is unknown: set it to {LOCAL} or {PRODUCTION}")
    if name == PRODUCTION:
        _check_production(environ)
    return Deployment(
        name=name,
        places=Places(
            home=home_of(environ),
            source=environ.get("RID_SOURCE", ""),
            weights=str(WEIGHTS),
            reports_url=environ.get("RID_REPORTS_URL", ""),
        ),
        dask=DaskCluster(scheduler=environ.get("RID_SCHEDULER") or None),
        completeness=Completeness(environ.get("RID_DROP_MARKER", ""), _number(environ, "RID_DROP_QUIET_SECONDS", 60)),
        scan_seconds=_number(environ, "RID_DROP_SCAN_SECONDS", 20),
        cron=environ.get("RID_PROTECT_CRON") or "0 2 * * *",
        timezone=environ.get("RID_TIMEZONE") or "UTC",
        fresh_hours=_number(environ, "RID_FRESH_HOURS", 168),
        automation=_switch(environ, "RID_AUTOMATION"),
        webhook=environ.get("RID_ALERT_WEBHOOK", ""),
        mail=_mail(environ),
    )


def _check_production(environ: Mapping[str, str]) -> None:
    missing = [name for name in ("RID_HOME", "RID_SOURCE", "RID_SCHEDULER") if not environ.get(name)]
    if missing:
        raise ValueError(f"RID_DEPLOYMENT=production needs {', '.join(missing)}: see docs/operations.md")
    check_scheduler(environ["RID_SCHEDULER"])


def _mail(environ: Mapping[str, str]) -> Mail | None:
    to = tuple(address.strip() for address in environ.get("RID_ALERT_MAIL_TO", "").split(",") if address.strip())
    if not to:
        return None
    missing = [name for name in ("RID_ALERT_MAIL_FROM", "RID_SMTP_HOST", "RID_SMTP_PASSWORD") if not environ.get(name)]
    if missing:
        raise ValueError(f"RID_ALERT_MAIL_TO needs {', '.join(missing)} too")
    sender = environ["RID_ALERT_MAIL_FROM"]
    return Mail(
        to=to,
        sender=sender,
        host=environ["RID_SMTP_HOST"],
        port=int(_number(environ, "RID_SMTP_PORT", 465)),
        user=environ.get("RID_SMTP_USER") or sender,
        password=environ["RID_SMTP_PASSWORD"],
    )


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name) or str(default)
    try:
        value = float(text)
    except ValueError as error:
        raise ValueError(f"{name}={text!r} is no number") from error
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}={text!r} has to be 0 or more")
    return value


def _switch(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name) or "off"
    if text not in ("on", "off"):
        raise ValueError(f"{name}={text!r} is neither on nor off")
    return text == "on"
