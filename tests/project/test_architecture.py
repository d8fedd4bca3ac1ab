"""docs/architecture.md names folders, files and functions; each has to be there, and each folder and file is named.

`python tests/project/test_architecture.py` writes the tree anew, and keeps what is said of each folder.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- tree, held by tests/project/test_architecture.py -->\n", "<!-- end of tree -->"
PACKAGES = ("dagster_project", "assets", "resources", "training", "models")
WIDTH = 128
SOURCES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}


def folders() -> dict[str, list[str]]:
    """The modules of every folder that holds code, in the tree's order."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("__init__.py")):
            folder = path.parent.relative_to(ROOT).as_posix()
            found[folder] = sorted(file.stem for file in path.parent.glob("*.py") if file.stem != "__init__")
    return found


def purpose(folder: str) -> str:
    """The first line of a package's docstring."""
    return SOURCES[f"{folder}/__init__.py"].split('"""')[1].splitlines()[0].rstrip(".")


def tree() -> str:
    """The tree as the document has it: folder, purpose, and its modules below."""
    lines = []
    for folder, modules in folders().items():
        depth = folder.count("/")
        lines.append(f"{'  ' * depth}{folder.rpartition('/')[2]}/".ljust(24) + purpose(folder))
        row = "  " * (depth + 2)
        for index, module in enumerate(modules):
            word = module + ("" if index == len(modules) - 1 else ", ")
            if len(row) + len(word) > WIDTH:
                lines.append(row.rstrip())
                row = "  " * (depth + 2)
            row += word
        if row.strip():
            lines.append(row)
    return "```\n" + "\n".join(lines) + "\n```\n"


def test_the_tree_is_that_of_the_folders() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    written = text.partition(BEGIN)[2].partition(END)[0]
    assert written == tree(), "docs/architecture.md is stale: python tests/project/test_architecture.py"


def test_no_folder_is_too_full() -> None:
    full = {folder: len(modules) for folder, modules in folders().items() if len(modules) > 22}
    assert not full, "these folders want rooms"


def test_every_file_and_function_that_is_named_is_there() -> None:
    text = DOCUMENT.read_text(encoding="utf-8").replace("\n", " ")
    pairs = re.findall(r"`([\w/]+\.py)`:\s+`(\w+)`", text)
    assert len(pairs) > 20
    missing = []
    for file, function in pairs:
        named = [code for path, code in SOURCES.items() if path == file or path.endswith(f"/{file}")]
        if not any(re.search(rf"(def|class) {function}\b", code) for code in named):
            missing.append((file, function))
    assert not missing


def test_the_glossary_is_sorted_and_its_words_are_used() -> None:
    glossary = DOCUMENT.read_text(encoding="utf-8").partition("## Words")[2].partition("\n## ")[0]
    entries = re.findall(r"^\| ([^|]+?)(?: \([^)]+\))? \| [^|]+ \|$", glossary, re.MULTILINE)[1:]
    assert len(entries) > 20
    assert entries == sorted(entries)
    code = "\n".join(SOURCES.values()).replace("_", " ")
    assert [word for entry in entries for word in entry.split(", ") if word not in code] == []


def test_the_life_of_a_photo_has_twelve_steps() -> None:
    life = DOCUMENT.read_text(encoding="utf-8").partition("## The life of a photo")[2].partition("\n## ")[0]
    assert re.findall(r"^(\d+)\. \*\*", life, re.MULTILINE) == [str(step) for step in range(1, 13)]


if __name__ == "__main__":
    before, _, after = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    DOCUMENT.write_text(before + BEGIN + tree() + END + after.partition(END)[2], encoding="utf-8")
