"""The grouping file: what is written is read back, and damage is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mtlrun.analysis.grouping.file import Group, Grouping, grouping_files
from mtlrun.errors import UserError

GROUPING = Grouping(
    name="tag-budget=2",
    source="tag",
    budget=2.0,
    tasks=("a", "b", "c"),
    groups=(Group(("a", "b"), ("a", "b")), Group(("b", "c"), ("c",), 0.5, "../small/seed=0")),
    value={"a": 0.25, "b": -1e6, "c": 1e-9},
    reference="../equal/seed=0",
)


def test_a_grouping_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "study" / "digits" / "groupings" / "tag-budget=2.json"
    GROUPING.write(file)
    assert Grouping.read(file) == GROUPING
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["format"] == 1
    assert content["groups"][0] == {"tasks": ["a", "b"], "serves": ["a", "b"], "cost": 1.0}
    assert (GROUPING.cost, GROUPING.network_of("c").tasks) == (1.5, ("b", "c"))
    dataset = tmp_path / "study" / "digits"
    assert grouping_files(dataset) == [file]
    assert GROUPING.reference_folder(file) == dataset / "equal" / "seed=0"
    of_half = GROUPING.reference_folder(file, GROUPING.groups[1])
    assert of_half == dataset / "small" / "seed=0"
    assert [path.name for path in file.parent.iterdir()] == [file.name]  # nothing temporary


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "format 2"),
        ({"tasks": "a"}, "no list of tasks"),
        ({"budget": "2"}, "'2' is not a number"),
        ({"budget": None}, "None is not a number"),
        ({"value": {"a": 1, "b": 1}}, "not every task has a number"),
        ({"value": {"a": 1, "b": 1, "c": float("nan")}}, "not every task has a number"),
        ({"tasks": ["a", "b", "c", "d"]}, "the tasks are"),
        ({"groups": [{"tasks": ["a", "b"], "serves": ["c"], "cost": 1}]}, "serves"),
        ({"groups": [{"tasks": ["a", "x"], "serves": ["a"], "cost": 1}]}, "unknown tasks"),
        ({"groups": [{"tasks": ["a"], "serves": ["a"], "cost": 0.7}]}, "no multiple of 1/2"),
        ({"groups": [{"tasks": ["a"], "serves": []}]}, "lacks 'cost'"),
    ],
)
def test_a_damaged_file_is_told(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    file = tmp_path / "damaged.json"
    file.write_text(json.dumps(json.loads(GROUPING.text()) | changes), encoding="utf-8")
    with pytest.raises(UserError, match=r"damaged\.json cannot be read") as refused:
        Grouping.read(file)
    assert reason in str(refused.value)


def test_what_is_no_grouping_is_told(tmp_path: Path) -> None:
    file = tmp_path / "damaged.json"
    for text in ("", "[]", '{"format": 1', "[" * 100_000):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="`mtlrun group` writes it anew"):
            Grouping.read(file)
    with pytest.raises(UserError, match="cannot be read"):
        Grouping.read(tmp_path / "none.json")
    with pytest.raises(ValueError, match="the networks serve"):
        replace(GROUPING, groups=(GROUPING.groups[0],))
    with pytest.raises(ValueError, match="a task twice"):
        replace(GROUPING, groups=(Group(("a", "a", "b"), ("a", "b")), GROUPING.groups[1]))
