"""Run folders with curves, and what is drawn of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mtlrun.analysis.comparison.compare import compare
from mtlrun.analysis.plots.style import print_style
from mtlrun.analysis.plots.subject import Subject, subject_of
from mtlrun.analysis.runs import find_runs

if TYPE_CHECKING:
    from conftest import WriteRun

STEPS = (1, 10, 20, 30)
METRICS = {"digit": {"accuracy": 0.8}, "ink": {"rmse": 0.5}}

WriteCurves = Callable[..., Path]


@pytest.fixture(autouse=True)
def print_settings() -> Iterator[None]:
    with print_style():
        yield


@pytest.fixture
def write(write_run: "WriteRun") -> WriteCurves:
    """A run with curves: for each task loss ratios and weights, for each pair cosines."""

    def write_curves(
        method: str,
        metrics: Mapping[str, Mapping[str, float]] = METRICS,
        *,
        ratios: Sequence[float] = (1, 0.9, 0.8, 0.7),
        weights: Sequence[float] = (1, 1, 1, 1),
        steps: Sequence[int] = STEPS,
        cosines: Mapping[tuple[str, str], Sequence[float]] | None = None,
        **options: Any,
    ) -> Path:
        changes = dict(change.split("=") for change in method.split(",")[1:])
        config = {"weighting": {"name": method}}  # runs with the same settings are one method
        folder = write_run(method, metrics, **{"changed": changes, "config": config, **options})
        rows = [
            f"{step},1,{task},2,{ratio},{weight},"
            for step, ratio, weight in zip(steps, ratios, weights, strict=True)
            for task in metrics
        ]
        head = "step,epoch,task,loss,loss_ratio,weight,grad_norm\n"
        (folder / "losses.csv").write_text(head + "\n".join(rows) + "\n")
        pairs = [
            f"{step},{a},{b},{value}"
            for (a, b), values in (cosines or {}).items()
            for step, value in zip(steps, values, strict=True)
        ]
        (folder / "conflicts.csv").write_text("\n".join(["step,task_a,task_b,cosine", *pairs]))
        return folder

    return write_curves


@pytest.fixture
def subject(tmp_path: Path) -> Callable[..., Subject]:
    def of_runs(*tasks: str, chosen: bool = False, window: float = 0) -> Subject:
        (table,) = compare(find_runs([tmp_path / "outputs"])).tables
        known = [task for row in table.rows[:1] for task in row.runs[0].metrics]
        return subject_of(table, tasks or known, chosen=chosen, which="test", window=window)

    return of_runs
