"""Prints the size and the shape of the import graph: `python -m benchmarks.import_graph`.

Modules and packages under `rid`, the imports among them wherever they stand in a file, circles, the longest path from a
module down, and the fullest folder.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import grimp


@dataclass(frozen=True)
class Shape:
    """The shape of an import graph.

    Attributes:
        modules: their number, packages included.
        imports: pairs of a module and another that it imports.
        circle: modules that import each other in a circle, the first found; empty without one.
        longest: modules on the longest path; empty with a circle.
        fullest: the package with most modules, and their number.
    """

    modules: int
    imports: int
    circle: tuple[str, ...]
    longest: tuple[str, ...]
    fullest: tuple[str, int]


def shape_of(package: str) -> Shape:
    """Reads the files of an installed package, without importing it."""
    graph = grimp.build_graph(package)
    imported = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    below: Counter[str] = Counter()
    for module in graph.modules:
        if not graph.find_children(module):
            below[module.rpartition(".")[0]] += 1
    try:
        order, circle = list(TopologicalSorter(imported).static_order()), ()
    except CycleError as error:
        order, circle = [], tuple(error.args[1])
    paths: dict[str, tuple[str, ...]] = {}
    for module in order:  # what is imported comes first
        deepest = max((paths[other] for other in sorted(imported[module])), key=len, default=())
        paths[module] = (module, *deepest)
    return Shape(
        len(imported),
        sum(len(others) for others in imported.values()),
        circle,
        max((paths[module] for module in sorted(paths)), key=len, default=()),
        below.most_common(1)[0],
    )


def main() -> int:
    """Prints the shape and returns 1 if there is a circle."""
    shape = shape_of("rid")
    print(f"{shape.modules} modules, {shape.imports} imports, {len(shape.circle)} modules in a circle")
    print(f"longest path {len(shape.longest)}: {' -> '.join(shape.longest)}")
    print(f"fullest folder {shape.fullest[0]}: {shape.fullest[1]} modules")
    return 1 if shape.circle else 0


if __name__ == "__main__":
    sys.exit(main())
