"""The cells of a study: what is done to a person's photos, by whom they are attacked, and what a cell is compared with.

One factor at a time around the base cell: DreamBooth, a budget of 16 levels, all photos protected, no transformation,
the model that the defender was trained against.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

UNTRAINED, CLEAN, NOISE, TEACHER, DEFENDER = "untrained", "clean", "noise", "teacher", "defender"
KINDS = (UNTRAINED, CLEAN, NOISE, TEACHER, DEFENDER)
BASE_BUDGET = 16  # at 64 px; a small photo offers few values to move
BUDGETS = (6, 12)
UPSCALE, RESTORE = "upscale", "restore"
SIMPLE_TRANSFORMS = ("jpeg-95", "jpeg-75", "jpeg-50", "resize", "blur", "noise", "crop-rotate")
TRANSFORMS = (*SIMPLE_TRANSFORMS, "purify", "purify-patches", UPSCALE, RESTORE)
SHARES = (0.5, 0.25)
BUDGET, SHARE, MODEL, RECIPE = "budget", "share", "model", "recipe"
FACTORS = (*TRANSFORMS, BUDGET, SHARE, MODEL, RECIPE)
OTHER_RECIPES = ("lora_textual_inversion_64", "textual_inversion_64")


@dataclass(frozen=True)
class Cell:
    """One condition; with a person it is one attack.

    Attributes:
        kind: untrained draws before anything is learned; clean, noise, teacher and defender say what the photos are.
        name: of the teacher's method, of the defender, or of the defender whose perturbation the noise matches.
        budget: of the perturbation, in 8-bit levels; 0 where there is none.
        share: of the photos that are protected, the first ones.
        transform: what the attacker does to all photos before learning, or "".
        model: which of the study's models is personalised.
        recipe: the personalisation, by name.
    """

    kind: str
    name: str = ""
    budget: int = 0
    share: float = 1.0
    transform: str = ""
    model: str = "embedded-64"
    recipe: str = "dreambooth_64"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a cell of kind {self.kind!r} is unknown: one of {', '.join(KINDS)}")

    @property
    def key(self) -> str:
        """A readable name that is unique among cells."""
        parts = [self.kind, self.name, f"b{self.budget}" if self.budget else "", self.transform]
        parts += [f"share{self.share:g}" if self.share != 1 else "", self.model, self.recipe]
        return "/".join(part for part in parts if part)

    @property
    def reference(self) -> Cell:
        """The cell without protection that it is compared with: the same attacker and the same transformation."""
        return Cell(CLEAN, transform=self.transform, model=self.model, recipe=self.recipe)

    @property
    def untrained(self) -> Cell:
        """The cell before personalisation."""
        return Cell(UNTRAINED, model=self.model, recipe=self.recipe)


def base_cells(defenders: tuple[str, ...], teachers: tuple[str, ...], model: str) -> list[Cell]:
    """Returns the cells of the base study: gain, each protection at the base budget, the first defender at others.

    The other defenders stand beside it at the base budget: one that was trained on Adv-SDS alone says what the
    regression adds.

    Args:
        defenders: names; the first is the one that is judged.
        teachers: methods.
        model: the one that the defender was trained against.
    """
    first = Cell(DEFENDER, defenders[0], BASE_BUDGET, model=model)
    cells = [first.untrained, first.reference, first, replace(first, kind=NOISE)]
    cells += [replace(first, kind=TEACHER, name=method) for method in teachers]
    cells += [replace(first, name=name) for name in defenders[1:]]
    return cells + [replace(first, budget=budget) for budget in reversed(BUDGETS)]


def analysed_cells(defenders: tuple[str, ...], teachers: tuple[str, ...], model: str) -> list[Cell]:
    """The cells of `base_cells` whose photos are looked at themselves: clean ones first, then the base budget's."""
    return [cell for cell in base_cells(defenders, teachers, model) if cell.kind == CLEAN or cell.budget == BASE_BUDGET]


def full_cells(
    defenders: tuple[str, ...],
    teachers: tuple[str, ...],
    model: str,
    others: tuple[str, ...],
    factors: tuple[str, ...] = FACTORS,
) -> list[Cell]:
    """Returns the cells of the full study: the base cells, the other budgets, and one robustness factor at a time.

    Noise, teachers and the other defenders are there at every budget; robustness rows are of the first defender.

    Args:
        defenders: names; the first is the one that is judged.
        teachers: methods.
        model: the one that the defender was trained against.
        others: models that it was not trained against.
        factors: what is varied.
    """
    cells = base_cells(defenders, teachers, model)
    first = cells[2]
    beside = [cell for cell in cells if cell.budget == BASE_BUDGET and cell != first]
    for budget in reversed(BUDGETS) if BUDGET in factors else ():
        cells += [replace(cell, budget=budget) for cell in beside]
    rows = [replace(first, transform=transform) for transform in TRANSFORMS if transform in factors]
    rows += [replace(first, share=share) for share in SHARES if SHARE in factors]
    rows += [replace(first, model=other) for other in others if MODEL in factors]
    rows += [replace(first, recipe=recipe) for recipe in OTHER_RECIPES if RECIPE in factors]
    for row in rows:
        cells += [row.untrained, row.reference, row]
    return list(dict.fromkeys(cells))
