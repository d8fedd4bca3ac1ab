"""Says that a run failed, by webhook and by mail, and whether a failure budget was exceeded."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator

from dagster import (
    DefaultSensorStatus,
    RunFailureSensorContext,
    SensorDefinition,
    make_email_on_run_failure_sensor,
    run_failure_sensor,
)

from rid.dagster_project.deployments import Deployment

SECONDS = 20  # patience with the webhook
LONGEST = 2000  # characters of a message
BUDGET = "failure budget"  # what `rid.assets.protection.failure_budget.FailureBudgetExceeded` says


def alert_sensors(deployment: Deployment, status: DefaultSensorStatus) -> list[SensorDefinition]:
    """One sensor a channel that is configured."""
    sensors = []
    if deployment.webhook:
        sensors.append(_webhook_sensor(deployment.webhook, status))
    if deployment.mail is not None:
        mail = deployment.mail
        sensors.append(
            make_email_on_run_failure_sensor(
                name="mail_failures",
                email_from=mail.sender,
                email_password=mail.password,
                email_to=list(mail.to),
                email_subject_fn=subject,
                email_body_fn=lambda context: f"<pre>{alert_text(context)}</pre>",
                smtp_host=mail.host,
                smtp_port=mail.port,
                smtp_type="SSL" if mail.port == 465 else "STARTTLS",
                smtp_user=mail.user,
                default_status=status,
            )
        )
    return sensors


def _webhook_sensor(url: str, status: DefaultSensorStatus) -> SensorDefinition:
    @run_failure_sensor(
        name="post_failures",
        default_status=status,
        description="Posts each failed run to RID_ALERT_WEBHOOK, as Slack, Teams and Mattermost take it: "
        '{"text": ...}, and more fields for other readers.',
    )
    def post_failures(context: RunFailureSensorContext) -> None:
        post(url, message(context))

    return post_failures


def message(context: RunFailureSensorContext) -> dict[str, object]:
    """Returns what is posted."""
    run, sentences = context.dagster_run, list(step_sentences(context))
    return {
        "text": alert_text(context),
        "job": run.job_name,
        "run": run.run_id,
        "failure_budget_exceeded": any(BUDGET in sentence for sentence in sentences),
    }


def subject(context: RunFailureSensorContext) -> str:
    """The first line of an alert."""
    over = any(BUDGET in sentence for sentence in step_sentences(context))
    return f"RID: {'failure budget exceeded in' if over else 'failed'} {context.dagster_run.job_name}"


def alert_text(context: RunFailureSensorContext) -> str:
    """Job, run, and what each step says. Photos are never named."""
    said = "\n".join(step_sentences(context)) or context.failure_event.message or ""
    return f"{subject(context)}\nrun {context.dagster_run.run_id}\n{said}"[:LONGEST]


def step_sentences(context: RunFailureSensorContext) -> Iterator[str]:
    """Says why each failed step of the run failed."""
    for event in context.get_step_failure_events():
        data = event.step_failure_data
        if data.user_failure_data is not None and data.user_failure_data.description:
            yield data.user_failure_data.description
        elif data.error is not None:
            yield data.error.message.strip().splitlines()[0]


def post(url: str, content: dict[str, object]) -> None:
    """Posts JSON.

    Raises:
        OSError: if it could not be delivered; the sensor's tick fails then, and says so.
    """
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS):
        pass
