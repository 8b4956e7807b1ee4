"""Selecting networks: published selections, and small instances against all selections."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mtlrun.analysis.grouping import search
from mtlrun.analysis.grouping.scores import (
    Candidates,
    Measured,
    PairMeans,
    from_affinity,
)
from mtlrun.analysis.grouping.search import Selection, select
from mtlrun.errors import UserError

REFERENCE: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "reference" / "task_groupings.json").read_text(encoding="utf-8")
)
STANDLEY = REFERENCE["taskgrouping"]


def table_of(name: str) -> np.ndarray[Any, Any]:
    return np.array(REFERENCE["tables"][name]["of_task_beside_other"])


def candidates_of(name: str) -> Candidates:
    table = table_of(name)
    if name.startswith("HOA"):
        return PairMeans(-table, -np.diagonal(table))
    return from_affinity(table.T)


# -- published -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFERENCE["expected"])
def test_published_selections(name: str) -> None:
    table, splits = name.split("_splits")
    tasks = REFERENCE["tables"][table]["tasks"]
    sign = -1 if table.startswith("HOA") else 1
    found = select([candidates_of(table)], int(splits))
    expected = REFERENCE["expected"][name]
    best = {
        task: max(
            sign * group["values"].get(task, -sign * math.inf) for group in expected["groups"]
        )
        for task in tasks
    }
    serving = {
        (frozenset(group["tasks"]), task)
        for group in expected["groups"]
        for task, value in group["values"].items()
        if sign * value == best[task]
    }
    served = {
        (frozenset(tasks[i] for i in network.tasks), tasks[j])
        for network in found.networks
        for j in network.serves
    }
    assert len(served) == len(tasks)
    assert served <= serving  # the same value in two of theirs is in the smaller one of ours
    assert sign * np.mean(found.values) == pytest.approx(expected["mean"], rel=1e-8)
    assert dict(zip(tasks, found.values, strict=True)) == pytest.approx(best, rel=1e-8)


def test_the_published_celeba_affinities_with_two_networks() -> None:
    affinity = table_of("TAG_CELEBA").T
    found = select([from_affinity(affinity)], 2)
    assert np.mean(found.values) == pytest.approx(-99.44182, abs=5e-6)
    assert math.fsum(found.values) == pytest.approx(best_of_all([from_affinity(affinity)], 2))


def losses(name: str) -> tuple[list[Candidates], dict[tuple[float, tuple[int, ...]], list[float]]]:
    """What main.cpp reads from a file, and each network's losses by its cost and tasks."""
    half, *full = STANDLEY[name]
    rows = [(0.5, {task: loss}) for task, loss in enumerate(half)]
    rows += [(1.0, {t: v for t, v in enumerate(row) if v is not None}) for row in full]
    found = [
        Measured.of([{t: -v for t, v in row.items()} for c, row in rows if c == cost], 5, cost)
        for cost in (0.5, 1.0)
    ]
    known = {(c, tuple(row)): [row.get(task, 99.0) for task in range(5)] for c, row in rows}
    return [*found], known


def on_test(selection: Selection) -> float:
    _, test = losses("results_test")
    chosen = [test[network.cost, network.tasks] for network in selection.networks]
    return float(np.min(chosen, axis=0).sum())


@pytest.mark.parametrize("at", range(9), ids=map(str, STANDLEY["budgets"]))
def test_published_totals_of_half_and_full_networks(at: int) -> None:
    budget = STANDLEY["budgets"][at]
    (half, full), known = losses("results")
    early, _ = losses("results_20")
    pairs = np.zeros((5, 5))
    for i, j in combinations(range(5), 2):
        pairs[i, j], pairs[j, i] = known[1.0, (i, j)][i], known[1.0, (i, j)][j]
    alone = np.array([known[1.0, (i,)][i] for i in range(5)])
    of_pairs = [half, PairMeans(-pairs, -alone)]
    totals = {
        "optimal": on_test(select([half, full], budget)),
        "early_stopping_approx": on_test(select(early, budget)),
        "hoa": on_test(select(of_pairs, budget)),
    }
    assert totals == pytest.approx({name: STANDLEY[name][at] for name in totals}, abs=5e-6)


# -- all selections --------------------------------------------------------------------------------


def batched(items: Iterable[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some


def best_of_all(candidates: Sequence[Candidates], budget: float) -> float:
    """The best sum over all selections of all networks, by looking at each."""
    count = candidates[0].task_count
    networks = []
    for one in candidates:
        for size in range(1, count + 1):
            for tasks in combinations(range(count), size):
                members = np.isin(np.arange(count), tasks)
                if isinstance(one, Measured) and not (
                    (np.isfinite(one.table) == members).all(axis=1).any()
                ):
                    continue
                networks.append((one.cost, one.values(members)))
    costs = np.array([cost for cost, _ in networks])
    values = np.array([values for _, values in networks])
    best = -math.inf
    for number in range(1, int(budget / costs.min()) + 1):
        for some in batched(combinations(range(len(costs)), number), 100_000):
            chosen = np.array(some)  # [S, number]
            chosen = chosen[costs[chosen].sum(axis=1) <= budget]
            best = max(best, values[chosen].max(axis=1).sum(axis=1).max(initial=-math.inf))
    return float(best)


def check(found: Selection, candidates: Sequence[Candidates], budget: float) -> None:
    """The selection is one, and its figures are those of its networks."""
    count = candidates[0].task_count
    assert sum(network.cost for network in found.networks) <= budget
    assert sorted(j for network in found.networks for j in network.serves) == list(range(count))
    for network in found.networks:
        assert network.serves
        members = np.isin(np.arange(count), network.tasks)
        (of,) = (one for one in candidates if one.cost == network.cost)
        for task in network.serves:
            assert found.values[task] == of.values(members)[task]


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_better_among_all_selections(seed: int) -> None:
    draw = np.random.default_rng(seed)
    tables = []
    for cost, number in ((0.5, 5), (1.0, 7)):
        members = np.array(all_members(4))[draw.permutation(14)[:number]]
        members[0] = True
        tables.append(Measured(np.where(members, draw.normal(size=members.shape), -np.inf), cost))
    budget = float(draw.choice([1.0, 1.5, 2.0]))
    found = select(tables, budget)
    check(found, tables, budget)
    assert math.fsum(found.values) == pytest.approx(best_of_all(tables, budget), abs=1e-12)


@pytest.mark.parametrize("budget", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_means_of_pairs_are_the_networks_that_they_stand_for(seed: int, budget: int) -> None:
    draw = np.random.default_rng(seed)
    means = PairMeans(draw.normal(size=(5, 5)), draw.normal(size=5))
    found = select([means], budget)
    check(found, [means], budget)
    listed = Measured(np.array([means.values(members) for members in all_members(5)]))
    assert found == select([listed], budget)
    assert math.fsum(found.values) == pytest.approx(best_of_all([listed], budget), abs=1e-12)


def all_members(count: int) -> list[np.ndarray[Any, Any]]:
    masks = np.arange(1, 1 << count)
    return list((masks[:, None] >> np.arange(count) & 1).astype(bool))


# -- ties, costs, limits ---------------------------------------------------------------------------


def test_of_equally_good_selections_the_cheapest_smallest_and_first() -> None:
    even = PairMeans(np.zeros((4, 4)), np.full(4, -1.0))
    (only,) = select([even], 1).networks
    assert (only.tasks, only.cost) == ((0, 1, 2, 3), 1.0)
    assert len(select([even], 4).networks) == 1
    # Two networks of two tasks are better than anything else; of all such pairs the first.
    pairs = [{i: 1.0, j: 1.0} for i, j in combinations(range(4), 2)]
    networks = [*reversed(pairs), dict.fromkeys(range(4), 0.5)]
    found = select([Measured.of(networks, 4, 1)], 3)
    assert [network.tasks for network in found.networks] == [(0, 1), (2, 3)]
    # Half networks that are as good are taken for their cost.
    halves = Measured.of([{2: 1.0, 3: 1.0}], 4, 0.5)
    found = select([Measured.of(networks, 4, 1), halves], 3)
    assert [(n.tasks, n.cost) for n in found.networks] == [((0, 1), 1.0), ((2, 3), 0.5)]


def test_a_task_alone_where_only_affinities_are_known_is_the_last_resort() -> None:
    draw = np.random.default_rng(0)
    affinity = draw.normal(size=(3, 3)) - 5
    found = select([from_affinity(affinity)], 3)
    assert all(len(network.tasks) > 1 for network in found.networks)
    # A task that all others harm as much as they can is still not left alone.
    harmed = np.array([[0, 1, -1], [1, 0, -1], [-1, -1, 0.0]])
    found = select([from_affinity(harmed)], 2)
    assert [(n.tasks, n.serves) for n in found.networks] == [((0, 1), (0, 1)), ((0, 2), (2,))]
    (alone,) = select([from_affinity(np.ones((1, 1)))], 1).networks
    assert (alone.tasks, alone.serves) == ((0,), (0,))
    # Great penalties leave small differences as they are.
    never = Measured.of([{0: -1e6}, {1: 2e-6, 2: 0.0}, {1: 1e-6, 2: 0.0}], 3, 1)
    assert select([never], 2).values == (-1e6, 2e-6, 0.0)


@pytest.mark.parametrize(("count", "budget"), [(6, 2), (6, 6), (21, 3)])
def test_how_great_affinities_are_is_no_matter(count: int, budget: int) -> None:
    """Those of small steps are some 1e-8, beside which no penalty may drown the differences."""
    affinity = np.random.default_rng(2).normal(size=(count, count))
    found = select([from_affinity(affinity)], budget)
    for factor in (2.0**-40, 2.0**40):
        assert select([from_affinity(factor * affinity)], budget).networks == found.networks


def test_a_budget_that_is_too_small_says_what_would_do() -> None:
    networks = [{0: 1.0, 1: 1.0}, {1: 1.0, 2: 1.0}, {3: 1.0}]
    halves = Measured.of([{3: 0.0}], 4, 0.5)
    with pytest.raises(UserError, match=r"--budget 2 is too small.*takes 2.5 networks"):
        select([Measured.of(networks, 4, 1), halves], 2)
    assert len(select([Measured.of(networks, 4, 1), halves], 2.5).networks) == 3
    with pytest.raises(UserError, match=r"--budget 0.5 is too small.*takes 1 networks"):
        select([from_affinity(np.eye(3))], 0.5)
    with pytest.raises(UserError, match="in none of the networks"):
        select([Measured.of(networks, 5, 1)], 5)
    for budget in (0, -1, 0.75, math.inf, math.nan):
        with pytest.raises(UserError, match=r"give a multiple of 0.5"):
            select([halves], budget)


def test_the_parts_of_many_tasks_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(3)
    means = PairMeans(draw.normal(size=(9, 9)), draw.normal(size=9))
    told: list[tuple[int, int]] = []
    whole = select([means], 4)
    monkeypatch.setattr(search, "LOW_TASKS", 3)
    assert select([means], 4, lambda done, of: told.append((done, of))) == whole
    assert told == sorted(told)
    assert all(0 < done <= of for done, of in told)


# -- more tasks than can be searched ---------------------------------------------------------------


def test_beyond_the_limit_the_tasks_that_help_each_other_are_found_and_nothing_is_claimed() -> None:
    count, families = 21, 4
    family = np.arange(count) % families
    draw = np.random.default_rng(1)
    affinity = np.where(family[:, None] == family, 1.0, -1.0) + 0.01 * draw.normal(size=(21, 21))
    found = select([from_affinity(affinity)], families)
    assert not found.proven
    assert min(found.values) > 0.9
    served = {tuple(sorted(set(family[list(network.serves)]))) for network in found.networks}
    assert served == {(0,), (1,), (2,), (3,)}
    # Half networks of measured ones, and a budget that is too small for them.
    halves = Measured.of(
        [dict.fromkeys(np.flatnonzero(family == one), 1.0) for one in range(4)], count, 0.5
    )
    assert select([halves], 2).values == (1.0,) * count
    with pytest.raises(UserError, match="No selection of networks that serves all 21 tasks"):
        select([halves], 1.5)


@pytest.mark.parametrize("seed", range(3))
def test_the_search_without_proof_is_near_the_best(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    means = PairMeans(np.random.default_rng(seed).normal(size=(9, 9)), np.full(9, -1e6))
    best = math.fsum(select([means], 3).values)
    monkeypatch.setattr(search, "EXACT_TASKS", 8)
    found = select([means], 3)
    assert sum(network.cost for network in found.networks) <= 3
    assert 0.9 * best < math.fsum(found.values) <= best + 1e-12
