import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from engine_toys import WIDTH, Toy, hps_model, toy_targets, toy_tasks
from torch import nn

from mtlrun.data.base import TensorSource
from mtlrun.engine.backward import Forward
from mtlrun.engine.evaluation import (
    Figures,
    Selection,
    as_evaluation,
    evaluate,
    headline,
    remaining_error,
)
from mtlrun.engine.loader import EvaluationLoader, Placement
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task
from mtlrun.tasks.classification import Classification
from mtlrun.tasks.regression import Regression
from mtlrun.types import MetricValue

ROWS = 29
NAN = float("nan")


@pytest.fixture
def dataset() -> Toy:
    """29 rows; task a has labels in 20 of them, b in the last 3 only, c in all."""
    targets = toy_targets(ROWS, seed=0)
    targets["a"][5:14] = -1
    targets["b"][:26] = torch.nan
    inputs = torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(1))
    return Toy({"val": {"rows": TensorSource(inputs, targets)}}, {"rows": ("a", "b", "c")})


@pytest.fixture
def model() -> MultiTaskModel:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5))
    return hps_model(trunk, toy_tasks())


def evaluated(model: MultiTaskModel, dataset: Toy, batch_size: int) -> Figures:
    tasks = toy_tasks()
    placement = Placement(torch.device("cpu"))
    loader = EvaluationLoader(dataset, "val", tasks, batch_size=batch_size, placement=placement)
    return evaluate(Forward(model, tasks), loader)


def test_an_architecture_is_told_of_every_pass_over_a_split(
    model: MultiTaskModel, dataset: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(model.architecture, "start_evaluation", lambda: told.append(model.training))
    for _ in range(2):
        evaluated(model, dataset, 8)
    assert told == [False, False]


def test_figures_are_those_of_the_whole_split_at_once(model: MultiTaskModel, dataset: Toy) -> None:
    model.eval()
    source = dataset.splits["val"]["rows"]
    assert isinstance(source, TensorSource)
    with torch.no_grad():
        predictions = model({"rows": source.inputs}, ("a", "b", "c"))
    model.train()
    tasks = toy_tasks()
    figures = evaluated(model, dataset, batch_size=4)
    assert list(figures) == ["a", "b", "c"]
    for name, task in tasks.items():
        target = source.targets[name]
        expected = task.compute(task.statistics(predictions[name], target))
        expected["loss"] = task.loss(predictions[name], target).item()
        assert figures[name] == pytest.approx(expected, rel=1e-5)
    hits = predictions["a"].argmax(1) == source.targets["a"]
    assert figures["a"]["accuracy"] == pytest.approx(hits.sum().item() / 20)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 10, 28, 1000])
def test_figures_do_not_depend_on_the_batch_size(
    model: MultiTaskModel, dataset: Toy, batch_size: int
) -> None:
    whole, cut = evaluated(model, dataset, ROWS), evaluated(model, dataset, batch_size)
    for name, values in whole.items():
        assert cut[name] == pytest.approx(values, rel=1e-6)


def test_a_task_without_labels_in_the_split_has_no_figures(
    model: MultiTaskModel, dataset: Toy
) -> None:
    source = dataset.splits["val"]["rows"]
    assert isinstance(source, TensorSource)
    source.targets["b"].fill_(torch.nan)
    assert list(evaluated(model, dataset, 4)) == ["a", "c"]


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_the_model_as_it_was(
    model: MultiTaskModel, dataset: Toy, training: bool
) -> None:
    model.train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = evaluated(model, dataset, 4), evaluated(model, dataset, 4)
    assert first == second  # no dropout
    assert model.training == training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# -- selection ------------------------------------------------------------------------------------

TASKS: dict[str, Task] = {
    "k": Classification(name="k", classes=2),
    "r": Regression(name="r"),
}
"""Headlines: accuracy (optimum 1) and r2 (optimum 1)."""


def epoch_figures(accuracy: float, r2: float | None = None) -> Figures:
    figures: Figures = {"k": {"loss": 1.0, "accuracy": accuracy, "f1_macro": accuracy / 2}}
    if r2 is not None:
        figures["r"] = {"loss": 1.0, "r2": r2, "rmse": 1 - r2, "mae": 2 - r2}
    return figures


def select(
    groups: Sequence[tuple[str, ...]], *epochs: Figures
) -> tuple[Selection, list[list[int]]]:
    selection = Selection(groups)
    improved = [selection.update(TASKS, f, number) for number, f in enumerate(epochs, start=1)]
    return selection, improved


BOTH = [("k", "r")]
APART = [("k",), ("r",)]


def test_the_headline_is_the_first_metric() -> None:
    assert (headline(TASKS["k"]), headline(TASKS["r"])) == ("accuracy", "r2")
    assert remaining_error(TASKS["k"], {"accuracy": 0.75}) == 0.25
    assert remaining_error(TASKS["r"], {"r2": -0.5}) == 1.5


def test_the_score_is_the_mean_remaining_error_by_the_first_epochs() -> None:
    selection, improved = select(
        BOTH,
        epoch_figures(0.5, 0.0),  # errors .5 and 1: ratios 1 and 1
        epoch_figures(0.75, 0.5),  # .25 and .5: 1/2 and 1/2
        epoch_figures(0.9, 0.1),  # .1 and .9: .2 and .9
        epoch_figures(0.7, 0.7),  # .3 and .3: .6 and .3
    )
    assert improved == [[0], [0], [], [0]]
    assert selection.first == {"k": 0.5, "r": 1.0}
    assert selection.score == [pytest.approx(0.45)]
    assert selection.epoch == [4]


def test_ties_go_to_the_earlier_epoch() -> None:
    selection, improved = select(
        BOTH, epoch_figures(0.5, 0.5), epoch_figures(0.75, 0.75), epoch_figures(0.75, 0.75)
    )
    assert improved == [[0], [0], []]
    assert selection.epoch == [2]


def test_groups_that_share_nothing_select_apart() -> None:
    selection, improved = select(
        APART, epoch_figures(0.5, 0.5), epoch_figures(0.6, 0.4), epoch_figures(0.5, 0.7)
    )
    assert improved == [[0, 1], [0], [1]]
    assert selection.epoch == [2, 3]
    assert selection.score == pytest.approx([0.8, 0.6])


def test_an_epoch_with_nan_is_never_better() -> None:
    selection, improved = select(
        BOTH, epoch_figures(0.5, 0.5), epoch_figures(0.9, NAN), epoch_figures(0.6, 0.5)
    )
    assert improved == [[0], [], [0]]
    assert selection.epoch == [3]


def test_a_run_that_begins_with_nan_takes_the_first_epoch_with_figures() -> None:
    selection, improved = select(
        BOTH, epoch_figures(0.5, NAN), epoch_figures(NAN, NAN), epoch_figures(0.2, 0.1)
    )
    assert improved == [[0], [], [0]]  # something must be kept from the first epoch on
    assert selection.epoch == [3]
    assert selection.score == [pytest.approx((0.8 / 0.5 + 1) / 2)]


def test_a_headline_that_is_never_defined_leaves_the_choice_to_the_others() -> None:
    selection, improved = select(
        BOTH, epoch_figures(0.5, NAN), epoch_figures(0.7, NAN), epoch_figures(0.6, NAN)
    )
    assert improved == [[0], [0], []]
    assert (selection.epoch, selection.undefined) == ([2], [1])
    assert selection.score == [pytest.approx(0.6)]


def test_a_perfect_first_epoch_stays_the_best() -> None:
    selection, improved = select(
        [("k",)], epoch_figures(1.0), epoch_figures(0.9), epoch_figures(1.0)
    )
    assert improved == [[0], [], []]
    assert selection.score == [0.0]


def test_a_task_without_figures_is_left_out_of_the_score() -> None:
    selection, _ = select(BOTH, epoch_figures(0.5), epoch_figures(0.75))
    assert selection.score == [0.5]
    assert select([("r",)], epoch_figures(0.5))[0].score == [math.inf]


def test_best_values_by_each_metrics_direction() -> None:
    selection, _ = select(
        BOTH,
        epoch_figures(0.5, 0.2),
        epoch_figures(0.8, 0.6),
        epoch_figures(0.8, NAN),
        epoch_figures(0.7, 0.4),
    )
    assert selection.best["k"] == {"accuracy": (0.8, 2), "f1_macro": (0.4, 2)}
    assert selection.best["r"]["r2"] == (0.6, 2)
    assert selection.best["r"]["rmse"] == (0.4, 2)  # lower is better
    assert selection.best["r"]["mae"] == (1.4, 2)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_selection_goes_on_from_a_checkpoint(cut: int) -> None:
    epochs = [epoch_figures(*f) for f in ((0.5, 0.5), (0.6, 0.4), (0.5, 0.7), (0.8, 0.2))]
    whole, expected = select(APART, *epochs)
    first, improved = select(APART, *epochs[:cut])
    resumed = Selection(APART)
    resumed.load_state_dict(first.state_dict())
    for number, figures in enumerate(epochs[cut:], start=cut + 1):
        improved.append(resumed.update(TASKS, figures, number))
    assert improved == expected
    assert resumed == whole


def test_the_state_is_plain_data(tmp_path) -> None:
    selection, _ = select(APART, epoch_figures(0.5, 0.5), epoch_figures(0.6, 0.6))
    torch.save(selection.state_dict(), tmp_path / "state.pt")
    state: Mapping[str, object] = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state == selection.state_dict()


# -- what a weighting sees of it ------------------------------------------------------------------


def test_metrics_with_their_directions_headlines_and_changes() -> None:
    figures = {"a": {"loss": 1.5, "accuracy": 0.5}, "c": {"loss": 0.25, "rmse": NAN}}
    tasks = toy_tasks()
    seen = as_evaluation(tasks, figures, {"a": -3.0})
    assert list(seen.metrics) == ["a", "b", "c"]
    assert seen.metrics["a"] == {
        "loss": MetricValue(1.5, False),
        "accuracy": MetricValue(0.5, True),
    }
    assert seen.metrics["b"] == {}
    assert math.isnan(seen.metrics["c"]["rmse"].value)
    assert seen.headlines == {name: headline(task) for name, task in tasks.items()}
    assert seen.changes == {"a": -3.0}
