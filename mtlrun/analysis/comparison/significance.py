"""Which differences between methods are more than the noise of their seeds."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from mtlrun.analysis.comparison.figures import OVER_METRICS, Samples
from mtlrun.analysis.comparison.groups import Group
from mtlrun.analysis.comparison.table import PairedTest
from mtlrun.analysis.statistics.seeds import around, holm, paired_test, unpaired_test

LEVEL = 0.05
REFERENCE = "equal"
"""The weighting that others are tested against, unless the user names another row."""


def reference_of(
    groups: Sequence[Group],
    names: Mapping[Group, Sequence[str]],
    baselines: Sequence[Group],
    wanted: str | None,
) -> Group | None:
    """What the rows of a table are tested against: of several the one with the most seeds.

    Args:
        groups: of the table.
        names: what each may be called.
        baselines: the single-task runs among them.
        wanted: the name that the user gave.

    Returns:
        None where there is no such row, nor one of equal weighting, nor a baseline.
    """
    choices = (
        [group for group in groups if wanted in names[group]],
        [group for group in groups if REFERENCE in names[group] and group not in baselines],
        list(baselines),
    )
    for found in choices:
        if found:
            return max(found, key=lambda group: len(group.runs))
    return None


def tests_against(
    reference: Group, groups: Sequence[Group], samples: Samples, labels: Mapping[Group, str]
) -> dict[Group, PairedTest]:
    """Every group that has a delta_m against the reference, corrected for their number (Holm)."""
    if OVER_METRICS not in samples[reference]:
        return {}
    tested = [
        group for group in groups if group is not reference and OVER_METRICS in samples[group]
    ]
    results = [_compared(group, reference, samples) for group in tested]
    adjusted = holm([p for _, p, _ in results])
    return {
        group: PairedTest(labels[reference], difference, p, corrected, pairs)
        for group, (difference, p, pairs), corrected in zip(tested, results, adjusted, strict=True)
    }


def _compared(one: Group, other: Group, samples: Samples) -> tuple[float, float, int]:
    """Difference in delta_m, its p-value, and the seeds that both have.

    A difference without scatter to judge it by, as between accuracies of few examples, has no
    p-value.
    """
    first = dict(zip(one.seeds, samples[one][OVER_METRICS], strict=True))
    second = dict(zip(other.seeds, samples[other][OVER_METRICS], strict=True))
    shared = [seed for seed in first if seed in second]
    if len(shared) < 2:
        here, there = list(first.values()), list(second.values())
        difference, scatter = fmean(here) - fmean(there), _range(here) + _range(there)
        p = unpaired_test(here, there)
    else:
        here, there = [first[seed] for seed in shared], [second[seed] for seed in shared]
        differences = [ours - theirs for ours, theirs in zip(here, there, strict=True)]
        difference, scatter = fmean(differences), _range(differences)
        p = paired_test(here, there)
    without_scatter = difference != 0 and scatter <= 1e-9 * abs(difference)
    return difference, math.nan if without_scatter else p, len(shared) if len(shared) > 1 else 0


def _range(values: Sequence[float]) -> float:
    return max(values) - min(values)


def power_text(pairs: int) -> str:
    """How large a mean difference must be to show over ``pairs`` seeds, in a sentence."""
    _, reach = around(0, 1 / math.sqrt(pairs), pairs - 1, 1 - LEVEL)
    return (
        f"With {pairs} seeds p < .05 takes a mean difference of {reach:.1f} times the standard "
        "deviation of the differences, and more after the correction."
    )


def p_text(p: float) -> str:
    """``p = .03``, ``p < .001``, as the field writes it; never rounded up to the level."""
    if p < 0.001:
        return "p < .001"
    rounded = (f"{p:.{digits}g}" for digits in range(2, 17))
    text = next((text for text in rounded if (float(text) < LEVEL) == (p < LEVEL)), f"{p}")
    return f"p = {text.removeprefix('0')}"
