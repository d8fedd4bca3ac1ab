import re
import shutil
from pathlib import Path

import pytest
from dagster import DefaultScheduleStatus, DefaultSensorStatus
from dagster._core.instance.config import dagster_instance_config

from rid.assets.defender import defender
from rid.assets.drop_chain import drop_chain
from rid.assets.teacher_perturbations import teacher_perturbations
from rid.dagster_project.automation import outdated_schedule, sensors
from rid.dagster_project.definitions import defs
from rid.dagster_project.deployments import deployment

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
CLUSTER = {
    "RID_DEPLOYMENT": "production",
    "RID_HOME": "s3://bucket/rid",
    "RID_SOURCE": "s3://bucket/photos",
    "RID_SCHEDULER": "tls://scheduler:8786",
}
MAIL = {"RID_ALERT_MAIL_TO": "a@b.c, d@e.f", "RID_ALERT_MAIL_FROM": "r@b.c", "RID_SMTP_HOST": "smtp"}


def test_local_needs_nothing() -> None:
    here = deployment({})
    assert (here.name, here.dask.scheduler, here.places.source) == ("local", None, "")
    assert (here.completeness.marker, here.completeness.quiet_seconds) == ("", 60)
    assert [sensor.name for sensor in sensors(here)] == ["new_drops", "promotions"]
    assert {sensor.default_status for sensor in sensors(here)} == {DefaultSensorStatus.STOPPED}


def test_production_uses_the_scheduler() -> None:
    here = deployment(CLUSTER | {"RID_AUTOMATION": "on", "RID_DROP_MARKER": "_DONE", "RID_PROTECT_CRON": "5 4 * * *"})
    assert here.dask.settings().scheduler == "tls://scheduler:8786"
    assert here.places.home == "s3://bucket/rid"
    assert here.completeness.marker == "_DONE"
    assert {sensor.default_status for sensor in sensors(here)} == {DefaultSensorStatus.RUNNING}
    schedule = outdated_schedule(here)
    assert (schedule.cron_schedule, schedule.default_status) == ("5 4 * * *", DefaultScheduleStatus.RUNNING)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"RID_DEPLOYMENT": "staging"}, "local or production"),
        ({"RID_DEPLOYMENT": "production"}, "needs RID_HOME, RID_SOURCE, RID_SCHEDULER"),
        (CLUSTER | {"RID_SCHEDULER": "tcp://scheduler:8786"}, "without TLS"),
        ({"RID_DROP_QUIET_SECONDS": "soon"}, "no number"),
        ({"RID_FRESH_HOURS": "-1"}, "0 or more"),
        ({"RID_AUTOMATION": "yes"}, "neither on nor off"),
        (MAIL, "needs RID_SMTP_PASSWORD too"),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_one_sentence(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        deployment(environ)
    assert "\n" not in str(raised.value)


def test_alerts_go_where_they_are_wanted() -> None:
    here = deployment(MAIL | {"RID_SMTP_PASSWORD": "hidden", "RID_ALERT_WEBHOOK": "https://hooks/secret"})
    types = {sensor.name: sensor.sensor_type.value for sensor in sensors(here)}
    assert types["post_failures"] == types["mail_failures"] == "RUN_STATUS"
    assert here.mail is not None
    assert here.mail.to == ("a@b.c", "d@e.f")
    assert "hidden" not in repr(here) and "secret" not in repr(here)


def test_the_age_of_arriving_drops_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    def limited(hours: str) -> set[str]:
        monkeypatch.setenv("RID_FRESH_HOURS", hours)
        graph = defs().resolve_asset_graph()
        return {k.to_user_string() for k in graph.get_all_asset_keys() if graph.get(k).freshness_policy is not None}

    assert limited("48") == {"photo_catalog", "protected_catalog"}
    assert limited("0") == set()


def test_every_variable_is_documented_and_no_other() -> None:
    code = "".join((ROOT / "dagster_project" / name).read_text() for name in ("deployments.py", "settings.py"))
    documented = set(re.findall(r"`(RID_[A-Z_]+)`", OPERATIONS))
    assert documented == set(re.findall(r'"(RID_[A-Z_]+)"', code)) | {"RID_CACHE"}


def test_the_sample_of_a_cluster_is_a_valid_dagster_yaml(tmp_path: Path) -> None:
    shutil.copy(ROOT / "deploy" / "dagster.yaml", tmp_path)
    settings, _ = dagster_instance_config(str(tmp_path))
    assert "postgres" in settings["storage"]
    assert settings["run_retries"]["retry_on_asset_or_op_failure"] is False
    pools = {"storage_write", "gpu"}
    assert {drop_chain.op.pool, defender.op.pool, teacher_perturbations.op.pool} == pools
    assert all(pool in (ROOT / "deploy" / "dagster.yaml").read_text() for pool in pools)
