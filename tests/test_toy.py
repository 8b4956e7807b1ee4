"""``experiment=toy``: its problem, walks through the engine, the command and the picture."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from mtlrun.analysis.runs import run_folders
from mtlrun.cli import run_command
from mtlrun.config import ToyConfig
from mtlrun.errors import UserError
from mtlrun.toy import recipe
from mtlrun.toy.problem import Problem
from mtlrun.toy.settings import complete
from mtlrun.toy.walk import STEPS_PER_EPOCH, Walk, Walker, walk
from mtlrun.weighting.base import GramianWeighting, LossWeighting, Weighting
from mtlrun.weighting.equal import Equal
from mtlrun.weighting.mgda import MGDA
from mtlrun.weighting.solvers import SolverError

HERE = Path(__file__).resolve().parent
REFERENCE = json.loads((HERE / "reference" / "weighting_toy2d.json").read_text())
RECIPE = OmegaConf.load(HERE.parent / "configs" / "experiment" / "toy.yaml").toy
STEEP = [-8.5, 7.5]
SCALED = Problem(scale=0.1)
UNSCALED = Problem(scale=1.0)


# -- the problem -----------------------------------------------------------------------------------


def by_the_definition(points: Tensor) -> Tensor:
    """Losses, [N, 2], as the reference file writes them down."""
    x1, x2 = points.unbind(1)
    inside1 = (0.5 * (-x1 - 7) - torch.tanh(-x2)).abs()
    inside2 = (0.5 * (-x1 + 3) + torch.tanh(-x2) + 2).abs()
    f1, f2 = inside1.clamp(min=5e-6).log() + 6, inside2.clamp(min=5e-6).log() + 6
    c1, c2 = torch.tanh(0.5 * x2).clamp(min=0), torch.tanh(-0.5 * x2).clamp(min=0)
    s1 = ((-x1 + 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    s2 = ((-x1 - 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
    return torch.stack([0.1 * (f1 * c1 + s1 * c2), f2 * c1 + s2 * c2], dim=1)


def test_losses_and_gradients() -> None:
    draws = torch.Generator().manual_seed(0)
    points = 10 * torch.randn(200, 2, dtype=torch.float64, generator=draws)
    points[:9, 1] = 0.0
    points[9] = torch.tensor([-5.0, np.arctanh(0.999999)])  # inside the logarithm's lower bound
    points.requires_grad_()
    losses = by_the_definition(points)
    slopes = [torch.autograd.grad(loss.sum(), points, retain_graph=True)[0] for loss in losses.T]
    there = points.detach().numpy()
    np.testing.assert_allclose(SCALED.losses(there), losses.detach(), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(SCALED.gradients(there), torch.stack(slopes, dim=1), atol=1e-9)
    np.testing.assert_allclose(SCALED.losses(STEEP), [0.655236, 7.900798], atol=1e-6)


def test_the_pareto_set() -> None:
    x = np.array([0.0, -3, 3, -5, 5, -7, 7])
    y = UNSCALED.front(x)
    known = [-8.3551, -8.3705, -8.3705, -8.3969, -8.3969, -8.4345, -8.4345]
    np.testing.assert_allclose(y, known, atol=5e-5)
    losses = UNSCALED.losses(np.stack([x, y], axis=-1))
    np.testing.assert_allclose(losses[:3, 0], [-15.0916, -9.994, -18.390], atol=5e-4)
    np.testing.assert_allclose(losses[:, 0], losses[[0, 2, 1, 4, 3, 6, 5], 1], atol=1e-9)
    np.testing.assert_allclose(SCALED.front(x), y, atol=1e-9)

    anywhere = np.random.default_rng(0).uniform(-10, 10, size=(4000, 2))
    others = UNSCALED.losses(anywhere)
    assert not (others[:, None] < losses).all(axis=-1).any()


def test_what_is_at_the_front() -> None:
    assert SCALED.at_front((0.0, -8.36))
    assert SCALED.at_front((7.04, -8.40))
    assert not SCALED.at_front((0.0, -8.30))
    assert not SCALED.at_front((7.06, -8.43))
    assert not SCALED.at_front((5.0, 2.0))


# -- walks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "make"), [("equal", Equal), ("mgda", MGDA)])
@pytest.mark.parametrize(("start", "steps"), [(0, 500), (1, 100), (2, 100)])
def test_paths_are_those_of_published_code(
    name: str, make: Callable[[], Weighting], start: int, steps: int
) -> None:
    published = REFERENCE["trajectories"][name][start]
    found = walk(SCALED, make, published["init"], Walker(steps, learning_rate=1e-3))
    assert found.steps == list(range(steps + 1))
    compared = {int(step): at for step, at in published["positions"].items() if int(step) <= steps}
    assert len(compared) >= 3
    for step, position in compared.items():
        np.testing.assert_allclose(found.points[step], position, atol=1e-3)
    np.testing.assert_allclose(found.losses, SCALED.losses(found.points))


def test_some_points_are_kept_and_the_last() -> None:
    found = walk(SCALED, Equal, STEEP, Walker(10, learning_rate=1e-3, record_every=4))
    everything = walk(SCALED, Equal, STEEP, Walker(10, learning_rate=1e-3))
    assert found.steps == [0, 4, 8, 10]
    assert np.array_equal(found.points, everything.points[[0, 4, 8, 10]])
    assert found.start == (-8.5, 7.5)
    assert found.end == tuple(everything.points[-1])


class Breaking(LossWeighting):
    """Equal weights until a step of which the gradient is not a number."""

    last = 7

    def objective(self, losses: list[Tensor]) -> Tensor:
        factor = torch.nan if self.step.step == self.last else 1.0
        return torch.stack(losses).sum() * factor


class Epochs(LossWeighting):
    """Notes its epochs' losses, and refuses to begin the third."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[Tensor]] = []

    def start_epoch(self, mean_losses: Sequence[Tensor]) -> None:
        self.seen.append(list(mean_losses))
        if len(mean_losses) == 2:
            raise UserError("Two are enough.")

    def objective(self, losses: list[Tensor]) -> Tensor:
        return torch.stack(losses).sum()


class Pairs(GramianWeighting):
    """Wants two batches a step, and has no answer in one of them."""

    batches = 2

    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        assert torch.equal(gramian[:2, :2], gramian[2:, 2:])
        assert torch.equal(losses[:2], losses[2:])
        if self.step.step == 3:
            raise SolverError("it did not converge")
        return torch.full((4,), 0.5, dtype=torch.float64)


def short_walk(make: Callable[[], Weighting]) -> Walk:
    return walk(SCALED, make, STEEP, Walker(150, learning_rate=1e-2, record_every=20))


def test_a_walk_that_breaks_ends_before_the_break() -> None:
    found = short_walk(Breaking)
    assert found.steps == [0, Breaking.last]
    assert "not finite" in found.stopped
    assert np.isfinite(found.points).all()
    assert np.array_equal(found.points[1], walk(SCALED, Equal, STEEP, Walker(7, 1e-2)).points[7])


def test_methods_see_epochs_and_may_refuse_to_go_on() -> None:
    weighting = Epochs()
    found = short_walk(lambda: weighting)
    assert found.stopped == "Two are enough."
    assert found.steps[-1] == 2 * STEPS_PER_EPOCH
    assert [len(means) for means in weighting.seen] == [0, 1, 2]
    every = walk(SCALED, Equal, STEEP, Walker(100, learning_rate=1e-2)).losses
    means = every[:100].reshape(2, 50, 2).mean(axis=1)
    np.testing.assert_allclose(torch.stack(weighting.seen[2]), means, rtol=1e-5)


def test_methods_of_several_batches_and_solvers_without_an_answer() -> None:
    found = short_walk(Pairs)
    assert found.stopped == ""
    assert len(found.remarks) == 1
    assert "it did not converge" in found.remarks[0]
    # Half of each of two equal gradients is the whole, and the weights before are as good.
    np.testing.assert_allclose(found.points, short_walk(Equal).points, atol=1e-4)


# -- the command -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "experiment=toy",
        "toy.weightings=[mgda,famo]",
        "toy.starts=[[-7.5,-0.5],[9,9]]",
        "toy.steps=30",
        "toy.settings.mgda.reduction=sum",
        "study=small",
    ]
    process = [sys.executable, "-m", "mtlrun", *arguments]
    first = subprocess.run(process, capture_output=True, text=True, check=True).stdout
    assert "2 methods from 2 starts, 30 steps each." in first
    assert "mgda: 0 of 2 at the front" in first

    (folder,) = (tmp_path / "outputs" / "small" / "toy").iterdir()
    assert folder.name == (
        "figure,settings.mgda.reduction=sum,starts=[[-7.5_-0.5]_[9_9]],steps=30,"
        "weightings=[mgda_famo],seed=0"
    )
    with (folder / "trajectories.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == 4 * ["0", "5", "10", "15", "20", "25", "30"]
    assert [(row["method"], row["start"]) for row in rows[::7]] == [
        ("mgda", "1"),
        ("mgda", "2"),
        ("famo", "1"),
        ("famo", "2"),
    ]
    last = rows[13]  # of MGDA from (9, 9)
    expected = walk(SCALED, lambda: MGDA(reduction="sum"), [9, 9], Walker(30, 0.03, (0.9, 0.97)))
    found = [float(last[key]) for key in ("x1", "x2", "loss_1", "loss_2")]
    np.testing.assert_allclose(found, [*expected.end, *expected.losses[-1]], rtol=1e-6)

    with Image.open(folder / "toy.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    colourful = pixels.max(axis=2) - pixels.min(axis=2) > 100  # a path, over a grey landscape
    height = len(pixels)
    assert colourful[: height // 2].sum() > 50
    assert colourful[height // 2 : height * 9 // 10].sum() > 150  # above the legend
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100

    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()
    assert [(image.width, image.height) for image in events.Images("toy")] == [picture.size]
    curve = events.Scalars("mgda/loss_2/start_2")
    assert [point.step for point in curve] == [0, 5, 10, 15, 20, 25, 30]
    assert curve[-1].value == pytest.approx(float(last["loss_2"]))
    assert len(events.Tags()["scalars"]) == 2 * 2 * 2

    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    assert run_command(arguments) == 0
    second = capsys.readouterr().out
    assert second.startswith(f"Already finished, nothing to do: {folder.relative_to(tmp_path)}")
    assert first.partition("method ")[2] == second.partition("method ")[2]
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    assert before == after
    assert list(run_folders(tmp_path / "outputs")) == []  # nothing for mtlrun compare


def test_one_that_was_stopped_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When all but the result is written: afterwards TensorBoard shows nothing twice."""
    dot = io.BytesIO()
    Image.new("RGB", (1, 1)).save(dot, "PNG")
    monkeypatch.setattr(recipe, "draw", lambda problem, walks: dot.getvalue())

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    arguments = ["experiment=toy", "toy.weightings=[mgda,great]", "toy.starts=[[9,9]]"]
    arguments += ["toy.steps=6", "toy.record_every=2"]
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "write_json", stop)
        assert run_command([*arguments, "study=stopped"]) != 0
    stopped, whole = (tmp_path / "outputs" / study / "toy" for study in ("stopped", "whole"))
    (folder,) = stopped.iterdir()
    assert (folder / "trajectories.csv").exists()
    assert not (folder / "toy.json").exists()
    assert run_command([*arguments, "study=stopped"]) == 0
    assert run_command([*arguments, "study=whole"]) == 0
    (other,) = whole.iterdir()
    found, wanted = ((at / "trajectories.csv").read_bytes() for at in (folder, other))
    assert found == wanted
    assert len(list(folder.glob("events.*"))) == 1


def test_the_recipe_names_methods_that_there_are_and_bounds_of_its_losses() -> None:
    known = [path.stem for path in (HERE.parent / "configs" / "weighting").glob("*.yaml")]
    assert set(RECIPE.weightings) <= set(known)
    bounds = RECIPE.settings.famo.min_losses
    assert (bounds.loss_1, bounds.loss_2) == pytest.approx((-21 * RECIPE.scale, -21))
    assert list(RECIPE.starts[0]) == STEEP


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            "experiment=toy toy.weightings=[mgda,gradnrom]",
            ["toy.weightings: there is no weighting gradnrom. Did you mean gradnorm?"],
        ),
        ("experiment=toi", ["experiment=toi: there is no such choice. Did you mean toy?"]),
        ("experiment=toy dataset=nyuv2", ["dataset=nyuv2 has no effect with experiment=toy, "]),
        ("experiment=toy epochs=3", ["epochs has no effect with experiment=toy, "]),
        ("experiment=toy tracking.images=3", ["tracking.images has no effect", "seed, study"]),
        ("toy.steps=3", ["toy.steps=3 has no effect without the experiment: add experiment=toy."]),
        ("experiment=toy toy.step=3", ["toy.step: there is no such setting. Did you mean toy.st"]),
        ("experiment=toy +toy.size=3", ["toy.size: there is no such setting. "]),
        (
            "experiment=toy toy.weightings=[mgda] toy.settings.cagrad.c=0.3",
            ["toy.settings.cagrad.c has no effect: toy.weightings does not name cagrad."],
        ),
        (
            "experiment=toy toy.settings={mgda:{reductoin:sum}}",
            ["toy.settings.mgda.reductoin: MGDA has no such setting. Did you mean reduction?"],
        ),
        (
            "experiment=toy toy.weightings=[mgda,pivrg]",
            ["toy.weightings: pivrg looks at validation metrics, and the toy has none."],
        ),
        (
            "experiment=toy toy.weightings=[mgda,rotograd]",
            ["toy.weightings: rotograd puts layers between the features and the heads, "],
        ),
        (
            "experiment=toy toy.weightings=[mgda,great] toy.settings.great.learning_rate=-1",
            ["toy.settings.great.learning_rate=-1: use a number above 0, or null for the network"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_slip(arguments: str, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments.split()) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"mtlrun: {parts[0]}")
    assert all(part in message for part in parts)
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weightings": []}, r"toy.weightings=\[\] leaves nothing to draw."),
        ({"weightings": ["mgda", "mgda"]}, "toy.weightings names mgda twice."),
        ({"starts": []}, r"toy.starts=\[\] leaves no walk."),
        ({"starts": [[0, 0], [1, 2, 3]]}, r"toy.starts: \[1, 2, 3\] is no point"),
        ({"starts": [[0, 1e9]]}, r"toy.starts: \[0, 1000000000.0\] is no point"),
        ({"starts": [["a", 0]]}, r"toy.starts: \['a', 0\] is no point"),
        ({"steps": 0}, "toy.steps=0: use 1 or more."),
        ({"record_every": 0}, "toy.record_every=0: use 1 or more."),
        ({"scale": -1.0}, "toy.scale=-1.0: use a number above 0."),
        ({"learning_rate": float("inf")}, "toy.learning_rate=inf: use a number above 0."),
        ({"betas": [0.9]}, r"toy.betas=\[0.9\]: give Adam's two"),
        ({"betas": [0.9, 1.0]}, r"toy.betas=\[0.9, 1.0\]: give Adam's two"),
        ({"settings": {"mgda": 3}}, "toy.settings.mgda=3: write toy.settings.mgda.KEY=VALUE."),
    ],
    ids=str,
)
def test_values_that_are_of_no_use(settings: dict[str, Any], message: str) -> None:
    usual = OmegaConf.to_container(RECIPE)
    toy = ToyConfig(**{**usual, "weightings": ["mgda"], **settings})
    mgda = OmegaConf.create({"weighting": {"_target_": "mtlrun.weighting.mgda.MGDA"}})
    with pytest.raises(UserError, match=f"^{message}"):
        complete(toy, ["mgda"], lambda given: mgda)


def test_without_matplotlib_nothing_is_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # makes its import fail
    assert run_command(["experiment=toy", "toy.steps=1000000"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("mtlrun: The toy is drawn with matplotlib, which is not installed. ")
    assert "pip install 'mtlrun[plots]'" in message
    assert not list(tmp_path.rglob("trajectories.csv"))
