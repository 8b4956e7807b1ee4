"""Every architecture trains through the engine, and goes on where it was stopped, bit for bit."""

import csv
import json
from pathlib import Path

import pytest
import torch
from in_process import assert_same_figures, train, train_with_stops

CONFIGS = Path(__file__).parents[2] / "configs" / "architecture"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
SMALL = ("backbone.hidden=[8,8]", "epochs=2", "batch_size=240")
SMALL_OF = {
    "adashare": (*SMALL, "epochs=6"),
    "ltb": (*SMALL, "epochs=6"),
    "mti_net": ("backbone=cnn", "backbone.channels=[4,6]", "architecture.channels=4", *SMALL[1:]),
    "pad_net": (*SMALL, "architecture.channels=4"),
}
STOPS, STOPS_IN_PHASES = (3, 8), (8, 24)
"""Steps, counted over both attempts, that end in an interruption."""

pytestmark = pytest.mark.usefixtures("composing")


@pytest.mark.parametrize("name", NAMES)
def test_goes_on_where_it_was_stopped(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (f"architecture={name}", *SMALL_OF.get(name, SMALL))
    train(tmp_path / "whole", *settings)
    stops = STOPS_IN_PHASES if "epochs=6" in settings else STOPS
    train_with_stops(tmp_path / "stopped", monkeypatch, *settings, stops=stops)
    assert_same_figures(tmp_path / "whole", tmp_path / "stopped")
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    parameters = result["parameters"]
    assert 0 < parameters["trained"] <= parameters["total"]
    assert parameters["shared"] + sum(parameters["tasks"].values()) <= parameters["total"]
    assert result["forward_flops"] > 0


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_was_learned_is_in_the_files(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    terms = ("architecture=soft_l2", "tracking.tensorboard=true")
    train(folder, *SMALL, *terms, "epochs=2", "engine.log_every=1")
    (term,) = {row["term"] for row in rows_of(folder / "terms.csv")}
    values = [float(row["loss"]) for row in rows_of(folder / "terms.csv")]
    assert values[0] < 1e-10  # equal networks
    assert min(values[1:]) > 1e-6
    structure = rows_of(folder / "structure.csv")
    assert {row["epoch"] for row in structure} == {"1", "2"}
    tasks = {"digit", "parity", "ink"}
    assert {row["row"] for row in structure} == {row["column"] for row in structure} == tasks
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()
    (name,) = {row["name"] for row in structure}
    assert len(events.Images(f"structure/{name}")) == 2
    shown = [event.value for event in events.Scalars(f"train/term/{term}")]
    assert torch.allclose(torch.tensor(shown), torch.tensor(values))


def test_runs_without_terms_have_no_file_of_them(tmp_path: Path) -> None:
    train(tmp_path / "run", *SMALL, "epochs=1")
    names = {path.name for path in (tmp_path / "run").glob("*.csv")}
    assert names == {"metrics.csv", "losses.csv", "conflicts.csv"}
