import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from mtlrun.engine.backward import StepFigures
from mtlrun.engine.ledger import Ledger, Mean, loss_ratio
from mtlrun.errors import UserError

NAN = float("nan")


def figures(
    losses: Sequence[float],
    present: Sequence[int] = (0, 1, 2),
    weights: Sequence[float] | None = None,
    jacobian: np.ndarray | None = None,
    nonfinite: int | None = None,
) -> StepFigures:
    gramian = None if jacobian is None else torch.from_numpy(jacobian @ jacobian.T)
    given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    scalars = [torch.tensor(loss) for loss in losses]
    return StepFigures(tuple(present), scalars, given, gramian, nonfinite)


def ledger_of(*steps: StepFigures) -> Ledger:
    ledger = Ledger(("a", "b", "c"))
    for number, step in enumerate(steps, start=1):
        ledger.add(number, step)
    return ledger


def random_steps(count: int) -> list[StepFigures]:
    """Steps with all that there is: absent tasks, steps without labels, skipped ones."""
    draws = np.random.default_rng(0)
    steps = []
    for number in range(count):
        present = [(0, 1, 2), (0, 2), (1,), ()][number % 4]
        steps.append(
            figures(
                draws.uniform(0.1, 3, len(present)).tolist(),
                present,
                draws.uniform(0, 2, len(present)).tolist(),
                draws.normal(size=(len(present), 5)),
                nonfinite=0 if number % 5 == 4 and present else None,
            )
        )
    return steps


def test_rows_are_means_over_the_interval() -> None:
    ledger = ledger_of(
        figures([1.0, 4.0, 0.5], weights=[1, 2, 3]),
        figures([3.0, 2.0, 0.25], weights=[3, 2, 1]),
    )
    losses, conflicts = ledger.rows(step=2, epoch=1)
    assert conflicts == []
    assert [row["task"] for row in losses] == ["a", "b", "c"]
    assert all((row["step"], row["epoch"]) == (2, 1) for row in losses)
    assert [row["loss"] for row in losses] == [2.0, 3.0, 0.375]
    assert [row["weight"] for row in losses] == [2, 2, 2]
    assert [row["loss_ratio"] for row in losses] == [
        2.0,
        0.75,
        0.75,
    ]  # of the first losses 1, 4, .5
    assert all(math.isnan(row["grad_norm"]) for row in losses)

    ledger.add(3, figures([0.5, 1.0, 1.0], weights=[1, 1, 1]))
    losses, _ = ledger.rows(step=3, epoch=2)
    assert [row["loss"] for row in losses] == [0.5, 1.0, 1.0]  # the interval began anew
    assert [row["loss_ratio"] for row in losses] == [0.5, 0.25, 2.0]  # the first losses did not
    assert ledger.latest_losses == [0.5, 1.0, 1.0]
    assert ledger.initial == [1.0, 4.0, 0.5]


def test_weights_may_come_as_scalars() -> None:
    step = figures([1.0, 2.0, 3.0])
    step.weights = [torch.tensor(0.5), torch.tensor(1.5), torch.tensor(-1.0)]
    losses, _ = ledger_of(step).rows(1, 1)
    assert [row["weight"] for row in losses] == [0.5, 1.5, -1.0]


def test_methods_without_weights_leave_them_out() -> None:
    ledger = ledger_of(figures([1.0, 2.0, 3.0]), figures([1.0, 2.0, 3.0], weights=[4, 5, 6]))
    losses, _ = ledger.rows(2, 1)
    assert [row["weight"] for row in losses] == [4, 5, 6]
    assert all(math.isnan(w) for w in ledger_of(figures([1.0, 2, 3])).latest_weights)


def test_an_absent_task_has_no_row_and_its_ratio_refers_to_its_own_first_loss() -> None:
    ledger = ledger_of(figures([1.0, 5.0], (0, 2), weights=[1, 7]), figures([2.0], (0,), [3.0]))
    losses, _ = ledger.rows(2, 1)
    assert [(row["task"], row["loss"], row["weight"]) for row in losses] == [
        ("a", 1.5, 2.0),
        ("c", 5.0, 7.0),
    ]
    ledger.add(3, figures([8.0], (1,), [1.0]))
    ledger.add(4, figures([4.0], (1,), [1.0]))
    (row,), _ = ledger.rows(4, 1)
    assert (row["task"], row["loss"], row["loss_ratio"]) == ("b", 6.0, 0.75)


def test_a_step_without_labels_counts_for_nothing() -> None:
    ledger = ledger_of(StepFigures((), []), figures([1.0, 2.0, 3.0]), StepFigures((), []))
    losses, _ = ledger.rows(3, 1)
    assert [row["loss"] for row in losses] == [1, 2, 3]
    assert ledger.skipped == 0
    assert ledger.rows(4, 1) == ([], [])


def test_gradient_norms_and_cosines_by_numpy() -> None:
    jacobians = [np.random.default_rng(n).normal(size=(3, 40)) for n in range(4)]
    ledger = ledger_of(*(figures([1.0, 1.0, 1.0], jacobian=j) for j in jacobians))
    losses, conflicts = ledger.rows(4, 1)
    norms = np.mean([np.linalg.norm(j, axis=1) for j in jacobians], axis=0)
    assert [row["grad_norm"] for row in losses] == pytest.approx(norms.tolist(), rel=1e-12)
    pairs = [(row["task_a"], row["task_b"]) for row in conflicts]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    for row, (s, t) in zip(conflicts, itertools.combinations(range(3), 2), strict=True):
        cosines = [j[s] @ j[t] / np.linalg.norm(j[s]) / np.linalg.norm(j[t]) for j in jacobians]
        assert row["cosine"] == pytest.approx(np.mean(cosines), rel=1e-12)
        assert row["step"] == 4
    ledger.add(5, figures([1.0, 1.0, 1.0], jacobian=np.eye(3)))
    losses, conflicts = ledger.rows(5, 1)  # the interval began anew
    assert [row["grad_norm"] for row in losses] == [1, 1, 1]
    assert [row["cosine"] for row in conflicts] == [0, 0, 0]


def test_cosines_of_the_tasks_that_are_there() -> None:
    opposed = np.array([[1.0, 0.0], [-2.0, 0.0]])
    zero = np.array([[1.0, 0.0], [0.0, 0.0]])
    _, conflicts = ledger_of(
        figures([1.0, 1.0], (0, 2), jacobian=opposed), figures([1.0, 1.0], (1, 2), jacobian=zero)
    ).rows(2, 1)
    # A gradient of zero has no direction.
    assert [(r["task_a"], r["task_b"], r["cosine"]) for r in conflicts] == [("a", "c", -1.0)]


def test_steps_in_conflict_are_counted() -> None:
    down, zero = [-1.0, 0.1], [0.0, 0.0]
    steps = [
        figures([1.0, 1.0, 1.0], jacobian=np.array([[1.0, 0.0], down, [0.0, 1.0]])),
        figures([1.0, 1.0, 1.0], jacobian=np.array([[1.0, 0.0], [2.0, 3.0], down])),
        figures([1.0, 1.0], (0, 2), jacobian=np.array([[1.0, 0.0], down])),
        figures([1.0, 1.0], (0, 1), jacobian=np.array([[1.0, 0.0], zero])),
        figures([1.0, 1.0, 1.0]),
    ]
    ledger = ledger_of(*steps)
    ledger.rows(5, 1)  # a row in between changes nothing
    assert ledger.conflicts.shares() == {(0, 1): 0.5, (0, 2): 2 / 3, (1, 2): 0.5}
    assert ledger.conflicts.close_epoch() == ledger.conflicts.shares()
    ledger.add(6, figures([1.0, 1.0], (0, 1), jacobian=np.array([[1.0, 0.0], down])))
    ledger.close_epoch()
    assert ledger.conflicts.close_epoch() == {(0, 1): 1.0}
    assert ledger.conflicts.shares() == {(0, 1): 2 / 3, (0, 2): 2 / 3, (1, 2): 0.5}
    assert ledger_of(figures([1.0, 1.0, 1.0])).conflicts.shares() == {}


@pytest.mark.parametrize(("epochs", "halfway"), [(1, 8.0), (2, 8.0), (3, 4.0), (4, 4.0), (5, 2.0)])
def test_the_loss_ratio_at_half_of_the_run(epochs: int, halfway: float) -> None:
    ledger = Ledger(("a", "b", "c"))
    for epoch in range(epochs):
        ledger.add(2 * epoch + 1, figures([9.0 / 2**epoch, 1.0], (0, 1)))
        ledger.add(2 * epoch + 2, figures([7.0 / 2**epoch, 1.0], (0, 1)))
        ledger.close_epoch()
    assert ledger.ratio_at_half(0) == pytest.approx(halfway / 9)
    assert ledger.ratio_at_half(1) == 1
    assert math.isnan(ledger.ratio_at_half(2))


def test_skipped_steps_are_counted_and_leave_no_figure() -> None:
    ledger = ledger_of(
        figures([1.0, 2.0, 3.0]),
        figures([NAN, 2.0, 3.0], nonfinite=0),
        figures([3.0, 4.0, 5.0]),
    )
    losses, _ = ledger.rows(3, 1)
    assert [row["loss"] for row in losses] == [2, 3, 4]
    assert ledger.skipped == 1
    assert ledger.initial == [1, 2, 3]
    ledger.add(4, figures([1.0, NAN], (0, 2), nonfinite=2))
    assert ledger.rows(4, 1) == ([], [])
    assert ledger.skipped == 2


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_a_bad_loss_that_nobody_noticed_is_named_with_its_step(bad: float) -> None:
    ledger = ledger_of(figures([1.0, 2.0, 3.0]), figures([1.0, 3.0], (0, 2)))
    ledger.add(17, figures([1.0, bad], (0, 2)))
    ledger.add(18, figures([bad, bad, bad]))
    with pytest.raises(UserError, match=r"task c is NaN or infinite at step 17\. .*on_nonfinite"):
        ledger.read_back()


def test_epoch_means() -> None:
    ledger = ledger_of(figures([1.0, 2.0], (0, 1)))
    ledger.rows(1, 1)  # logging does not begin a new epoch
    ledger.add(2, figures([3.0], (0,)))
    means = ledger.close_epoch()
    assert means[:2] == [2.0, 2.0]
    assert math.isnan(means[2])
    ledger.add(3, figures([7.0, 8.0, 9.0]))
    assert ledger.close_epoch() == [7.0, 8.0, 9.0]
    first, second = ledger.epoch_means
    assert first.dtype == torch.float64
    assert first[:2].tolist() == [2.0, 2.0]
    assert second.tolist() == [7.0, 8.0, 9.0]


def rows_as_text(ledger: Ledger, steps: Sequence[StepFigures], cuts: Sequence[int]) -> list[str]:
    """Rows at every seventh step; a new ledger takes over after the steps ``cuts``."""
    texts = []
    for number, step in enumerate(steps, start=1):
        ledger.add(number, step)
        if number % 7 == 0:
            texts.append(repr(ledger.rows(number, 1)))
        if number % 10 == 0:
            texts.append(repr(ledger.close_epoch()))
        if number in cuts:
            state = ledger.state_dict()
            ledger = Ledger(ledger.tasks)
            ledger.load_state_dict(state)
    ledger.read_back()
    texts.append(repr((ledger.skipped, ledger.initial, ledger.latest_weights)))
    texts.append(repr([means.tolist() for means in ledger.epoch_means]))
    texts.append(repr((ledger.conflicts.shares(), ledger.conflicts.close_epoch())))
    return texts


@pytest.mark.parametrize("cuts", [range(1, 24), [3], [7], [10], [8, 9, 18]])
def test_a_checkpoint_anywhere_changes_no_digit(cuts: Sequence[int]) -> None:
    whole = rows_as_text(Ledger(("a", "b", "c")), random_steps(23), [])
    assert "0." in whole[0]
    assert rows_as_text(Ledger(("a", "b", "c")), random_steps(23), cuts) == whole


def test_the_state_is_plain_data() -> None:
    ledger = ledger_of(*random_steps(5))
    plain = (dict, list, int, float, Tensor)

    def check(value: object) -> None:
        assert isinstance(value, plain), value
        for part in value.values() if isinstance(value, dict) else ():
            check(part)
        for part in value if isinstance(value, list) else ():
            check(part)

    check(ledger.state_dict())


def test_mean_and_ratio_of_nothing() -> None:
    mean = Mean()
    assert math.isnan(mean.value)
    mean.add(NAN)
    assert math.isnan(mean.value)
    mean.add(4.0)
    mean.add(2.0)
    assert mean.value == 3.0
    assert loss_ratio(3.0, 2.0) == 1.5
    assert math.isnan(loss_ratio(3.0, 0.0))
