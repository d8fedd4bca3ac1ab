"""Promises of the README that are kept: its commands and their options, its targets, files and pictures."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from rid.dagster_project.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line.strip() for line in README.splitlines() if line.startswith("    ") and line.strip()]


def words(program: str) -> list[list[str]]:
    """The README's commands that call a program, without comments."""
    split = [shlex.split(line, comments=True) for line in COMMANDS]
    return [line[i + 1 :] for line in split for i, word in enumerate(line) if Path(word).name == program]


def test_the_first_screen_has_one_number_a_picture_and_two_commands() -> None:
    screen = "\n".join(README.splitlines()[:45])
    assert "make demo" in screen
    assert "make test" in screen
    assert re.search(r"!\[[^]]+\]\(docs/[^)]+\)", screen)
    assert re.search(r"95 % interval", screen)


def test_every_target_of_make_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {line[0] for line in words("make")}
    assert {"demo", "test"} <= named <= targets
    assert {"install", "demo", "test", "test-all", "check", "dev", "bench"} <= targets


@pytest.mark.parametrize("line", words("rid"), ids=" ".join)
def test_every_rid_command_and_option_exists(line: list[str]) -> None:
    command = get_command(app)
    while line and hasattr(command, "commands"):
        assert line[0] in command.commands, f"rid has no command {line[0]}"
        command, line = command.commands[line[0]], line[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in line if word.startswith("--")} <= known


def test_every_rid_command_is_in_the_readme() -> None:
    assert {line[0] for line in words("rid")} >= set(get_command(app).commands)


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    for link in links:
        if not link.startswith("http"):
            assert (ROOT / link.partition("#")[0]).exists(), link


def test_every_asset_is_in_the_readmes_graph() -> None:
    from rid.dagster_project.definitions import defs

    for key in defs().resolve_all_asset_keys():
        assert key.to_user_string() in README
