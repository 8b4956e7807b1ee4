"""What is written for Hydra's grammar of overrides."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from mtlrun.overrides import hydra_text


@pytest.mark.parametrize(
    "value",
    [
        None, True, 3, 1e-05, 0.25, "adam", "a b", "null", "True", "1e3", "5_0", "x,y", "a=b", "",
        "it's", 'say "x"', "/data/x-1.csv", "[a]", "study/d/equal,tasks=[a]/seed=0", [60, 80],
        ["a", "5_o_Clock", "1"], {"a": [0.5, None], "b c": "d"}, [[1, 2], []], {},
    ],
    ids=str,
)  # fmt: skip
def test_values_are_read_back_by_hydra(value: object) -> None:
    read = OverridesParser.create().parse_override(f"key={hydra_text(value)}")
    assert not read.is_sweep_override()
    assert read.value() == value
