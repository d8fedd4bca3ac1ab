"""Starts what an operator needs on one machine, with example drops: `python -m rid.dagster_project.demo.dev [FOLDER]`.

The web server and the daemon of Dagster with sensors and the schedule on, the reports on a web server of their own, and
three drops in RID_SOURCE that the sensor notices. Everything lies under FOLDER, by default `demo`, and listens on
127.0.0.1 alone. Ctrl-C stops it.
"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType

from rid.dagster_project.dagster_dev import HOST, DagsterDev, DagsterDevFailed, free_port
from rid.dagster_project.demo.catalog import demo_files
from rid.dagster_project.demo.places import DAGSTER, HOME, SOURCE

DROPS = {"portraits": ("portraits/",), "events": ("events/",), "studio": ("portraits/", "events/")}
QUIET_SECONDS = "5"


def main() -> int:
    """Starts everything, prints the addresses, and waits for Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo"))
    parser.add_argument("--port", type=int, default=3000, help="of Dagster's web server; the next free one is taken")
    options = parser.parse_args()
    folder: Path = options.folder.absolute()
    write_drops(folder / SOURCE)
    reports = folder / HOME / "reports"
    reports.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with serve(reports, free_port(options.port + 1)) as reports_url:
            environment = {
                "RID_HOME": str(folder / HOME),
                "RID_SOURCE": str(folder / SOURCE),
                "RID_REPORTS_URL": reports_url,
                "RID_AUTOMATION": "on",
                "RID_DROP_QUIET_SECONDS": os.environ.get("RID_DROP_QUIET_SECONDS", QUIET_SECONDS),
            }
            _say("starting Dagster ...")
            with DagsterDev(folder / DAGSTER, environment, free_port(options.port)) as dagster:
                _say(
                    f"\nDagster   {dagster.url}\nreports   {reports_url}\nlog       {dagster.log}\n"
                    f"drops     {folder / SOURCE}  (put a folder of photos there)\n\nCtrl-C stops everything."
                )
                dagster.wait()
    except KeyboardInterrupt:
        _say("stopped")
        return 0
    except DagsterDevFailed as error:
        print(error, file=sys.stderr)
    return 1


def write_drops(source: Path) -> None:
    """Writes the example drops; files that are there stay as they are."""
    for name, beginnings in DROPS.items():
        folder = source / name
        for path, data in demo_files(folder):
            if path.startswith(beginnings):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(data)


class serve:  # noqa: N801 - used as a function
    """Shows a folder on a port of the loopback interface; a context manager that gives the address."""

    def __init__(self, folder: Path, port: int) -> None:
        handler = functools.partial(_Quiet, directory=str(folder))
        self._server = ThreadingHTTPServer((HOST, port), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://{HOST}:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Logs nothing: the names of drops and photos stay out of the terminal."""


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
