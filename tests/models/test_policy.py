import json
from dataclasses import fields

import pytest

from rid.models.policy import PILLOW_BOMB_PIXELS, ProtectionPolicy
from rid.models.protector import READ_BACK


def test_equal_policies_have_equal_digests_however_they_are_written() -> None:
    first = ProtectionPolicy.from_json('{"min_survival": 1, "strict_names": true}')
    second = ProtectionPolicy.from_json(b'{ "strict_names" : true, "min_survival": 1.0 }')
    assert first.digest() == second.digest()
    assert ProtectionPolicy.from_json(first.to_json()) == first


@pytest.mark.parametrize(
    "change",
    [
        {"budget_levels": 6},
        {"min_survival": 0.5},
        {"window_overlap": 0.5},
        {"max_bytes": 10},
        {"max_pixels": 10},
        {"max_side": 10},
        {"min_side": 10},
        {"palette": "quarantine"},
        {"strict_names": True},
        {"mark": False},
        {"trust_marks": True},
        {"data_mining": "DMI-PROHIBITED"},
    ],
)
def test_every_field_that_decides_an_outcome_changes_the_digest(change: dict[str, object]) -> None:
    assert ProtectionPolicy.from_json(json.dumps(change)).digest() != ProtectionPolicy().digest()


def test_what_bounds_a_run_decides_no_bytes_and_is_not_in_the_digest() -> None:
    bounds = {"max_quarantined": 1, "max_quarantined_share": 0.9, "photo_seconds": 3, "photo_memory": 2**26}
    bounds |= {"max_visible_share": 1.0}
    assert ProtectionPolicy(**bounds).digest() == ProtectionPolicy().digest()
    assert ProtectionPolicy(**bounds).to_json() != ProtectionPolicy().to_json()


@pytest.mark.parametrize(
    ("name", "low", "high", "step"),
    [
        ("budget_levels", 1, 16, 1),
        ("min_survival", 0.1, 1.0, 1e-6),
        ("window_overlap", 0.0, 0.75, 1e-6),
        ("max_bytes", 1, 2**31 - 1, 1),
        ("max_pixels", 1, 2 * PILLOW_BOMB_PIXELS, 1),
        ("max_side", 1, 65_500, 1),
        ("min_side", 1, 65_500, 1),
        ("max_quarantined_share", 0.0, 1.0, 1e-6),
        ("max_quarantined", 0, 10**9, 1),
        ("photo_seconds", 0.1, 86_400, 1e-6),
        ("photo_memory", 2**25, 2**40, 1),
        ("max_visible_share", 0.0, 1.0, 1e-6),
    ],
)
def test_every_number_has_bounds_that_are_allowed_themselves(name: str, low: float, high: float, step: float) -> None:
    for value in (low, high):
        assert getattr(ProtectionPolicy(**{name: value}), name) == value
    for value in (low - step, high + step):
        with pytest.raises(ValueError, match=r"is not allowed: .* from \S+ to \S+"):
            ProtectionPolicy(**{name: value})


def test_no_number_is_without_a_test_of_its_bounds() -> None:
    (marks,) = test_every_number_has_bounds_that_are_allowed_themselves.pytestmark
    numbers = {field.name for field in fields(ProtectionPolicy) if "int" in field.type or "float" in field.type}
    assert {case[0] for case in marks.args[1]} == numbers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        ("[1]", "JSON list"),
        ('{"min_survivel": 1}', "unknown field 'min_survivel'"),
        ('{"budget_levels": 17}', "from 1 to 16"),
        ('{"budget_levels": 0}', "from 1 to 16"),
        ('{"budget_levels": true}', "from 1 to 16"),
        ('{"budget_levels": 6.0}', "from 1 to 16"),
        ('{"min_survival": 0.05}', "from 0.1 to 1"),
        ('{"min_survival": NaN}', "from 0.1 to 1"),
        ('{"min_survival": "0.5"}', "from 0.1 to 1"),
        ('{"window_overlap": 1}', "from 0 to 0.75"),
        ('{"max_pixels": 1e9}', "whole number"),
        ('{"max_pixels": null}', "whole number"),
        ('{"min_side": 0}', "from 1 to"),
        ('{"palette": "keep"}', "convert, quarantine"),
        ('{"strict_names": 1}', "true or false"),
        ('{"mark": null}', "true or false"),
        ('{"trust_marks": "yes"}', "true or false"),
        ('{"data_mining": "DMI-ALLOWED"}', "DMI-PROHIBITED-AIMLTRAINING"),
        ('{"data_mining": ["DMI-PROHIBITED"]}', "null or one of"),
    ],
)
def test_a_bad_policy_is_refused_with_one_sentence(text: str | bytes, says: str) -> None:
    with pytest.raises(ValueError) as refused:
        ProtectionPolicy.from_json(text)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_is_read_back_is_held_against_no_limit_of_the_operator() -> None:
    assert READ_BACK.max_side == 65_500 and READ_BACK.min_side == 1 and not READ_BACK.strict_names
