"""A real Chromium, and what a person does in Dagster's web interface with it."""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
WIDE, NARROW = (1440, 900), (1024, 768)
PATIENCE = 30_000  # ms, for anything on a page
RUN_SECONDS = 400
GROUP = "/locations/rid.dagster_project.definitions/asset-groups/protection/lineage"


def chromium() -> str | None:
    """The browser's binary: CHROMIUM, or one on PATH."""
    names = (os.environ.get("CHROMIUM"), "chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page of 1440 x 900 pixels."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": WIDE[0], "height": WIDE[1]}, locale="en-GB", timezone_id="UTC")
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


class DagsterPages:
    """Dagster's pages, and its GraphQL for what a person would wait and look for."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url

    def open(self, path: str, *texts: str) -> None:
        """Opens a page and waits until it shows some texts."""
        self.page.goto(f"{self.url}{path}")
        for text in texts:
            self.visible(text).wait_for()

    def visible(self, text: str, *, exact: bool = True) -> Locator:
        """The first element with a text that can be seen."""
        return self.page.get_by_text(text, exact=exact).locator("visible=true").first

    def launch(self, drops: list[str], button: str) -> None:
        """Materialises the group's assets of some drops by clicking."""
        self.open(GROUP, "protected_catalog")
        self.page.get_by_role("button", name="Materialize all").click()
        self.visible("Select a partition or create one").click()
        for drop in drops:
            self.page.get_by_text(drop, exact=True).locator("visible=true").last.click()
        self.page.keyboard.press("Escape")
        self.page.get_by_role("button", name=button).click()

    def show_pictures(self) -> list[int]:
        """Opens each hidden picture of a metadata table and returns the widths of what is drawn."""
        widths = []
        for link in self.page.get_by_text("[Show Markdown]").all():
            link.click()
            picture = self.page.locator("[role=dialog] img, .bp5-dialog img, .bp4-dialog img").last
            picture.wait_for()
            widths.append(int(picture.evaluate("image => image.decode().then(() => image.naturalWidth)")))
            self.page.get_by_role("button", name="Close").last.click()
            picture.wait_for(state="detached")
        return widths

    def graphql(self, query: str) -> dict[str, Any]:
        """Asks Dagster."""
        request = urllib.request.Request(
            f"{self.url}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            data: dict[str, Any] = json.loads(answer.read())["data"]
        return data

    def runs(self) -> list[dict[str, Any]]:
        """All runs, the newest first: status, jobName, and tags as a dictionary."""
        query = "{runsOrError{... on Runs{results{runId status jobName tags{key value}}}}}"
        found: list[dict[str, Any]] = self.graphql(query)["runsOrError"]["results"]
        return [run | {"tags": {tag["key"]: tag["value"] for tag in run["tags"]}} for run in found]

    def wait_for_run(self, number: int) -> dict[str, Any]:
        """Waits until the `number`th run is finished, and returns it."""
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            runs = self.runs()
            if len(runs) >= number and runs[-number]["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
                return runs[-number]
            time.sleep(1)
        raise AssertionError(f"run {number} is not finished after {RUN_SECONDS} s: {self.runs()}")


def screenshot(page: Page, folder: Path, name: str, text: str) -> None:
    """Takes a picture in both sizes, once the page shows a text; the narrow one without the navigation."""
    for suffix, (width, height), collapsed in (("-1024", NARROW, "true"), ("", WIDE, "false")):
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate(f"localStorage.setItem('dagster-nav-collapsed', '{collapsed}')")
        page.reload()  # so that it is laid out for its size
        page.get_by_text(text, exact=True).locator("visible=true").first.wait_for()
        page.wait_for_timeout(3000)  # for what moves into its place
        page.screenshot(path=folder / f"{name}{suffix}.png")
