"""``experiment=toy``, readable as a recipe: walk, draw, write, show."""

import csv
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from mtlrun import __version__, build
from mtlrun.analysis.plots.style import require_matplotlib
from mtlrun.config import Config, ToyConfig
from mtlrun.durable import replace_file
from mtlrun.engine.device import cpu_threads
from mtlrun.errors import UserError
from mtlrun.randomness import seed_global
from mtlrun.toy.figure import draw, picture_of
from mtlrun.toy.problem import Problem
from mtlrun.toy.settings import RESULT
from mtlrun.toy.walk import INFOS, TASKS, Walk, Walker, walk
from mtlrun.tracking import folder as run_folder
from mtlrun.tracking.files import write_json, write_text
from mtlrun.tracking.tables import shown
from mtlrun.weighting.base import Weighting

COLUMNS = ("method", "start", "step", "x1", "x2", "loss_1", "loss_2")

CURVE_POINTS = 50
"""About so many points has a curve in TensorBoard; the CSV file has all that were kept."""

Walks = Mapping[str, Sequence[Walk]]


def draw_toy(config: Config, toy: ToyConfig, folder: Path, console: Console) -> dict[str, Any]:
    """Walk with every method from every start, draw and write the paths; or show what there is.

    Args:
        config: the whole configuration.
        toy: the toy's settings, with the whole settings of each method.
        folder: the run folder, locked.
        console: where progress and the result are shown.

    Raises:
        UserError: a setting that does not fit, or matplotlib is missing.
    """
    run_folder.claim(folder, {"seed": config.seed, "toy": asdict(toy)}, ())
    path = folder / RESULT
    if path.exists():
        result: dict[str, Any] = json.loads(path.read_text())
        console.print(f"Already finished, nothing to do: {folder}", highlight=False, soft_wrap=True)
    else:
        require_matplotlib("The toy is drawn")
        problem = Problem(toy.scale)
        walks, seconds = _walk_all(problem, toy, config.seed, console)
        _write_trajectories(folder / "trajectories.csv", walks)
        picture = draw(problem, walks)
        replace_file(folder / "toy.png", picture)
        if config.tracking.tensorboard:
            _write_events(folder, walks, picture)
        result = _result(problem, walks, seconds)
        write_json(path, result)
    console.print(_table(result))
    for line in (*_remarks(result), *_whereabouts(folder, config)):
        console.print(line, highlight=False, soft_wrap=True)
    return result


def _walk_all(
    problem: Problem, toy: ToyConfig, seed: int, console: Console
) -> tuple[Walks, dict[str, float]]:
    """For each method its walks, and how many seconds they took."""
    first, second = toy.betas
    walker = Walker(toy.steps, toy.learning_rate, (first, second), toy.record_every, seed)
    for name in toy.weightings:  # what does not fit is refused before the first step
        _check(name, _method(toy, name, seed))
    walks: dict[str, list[Walk]] = {}
    seconds: dict[str, float] = {}
    console.print(
        f"{len(toy.weightings)} methods from {len(toy.starts)} starts, {toy.steps} steps each.",
        highlight=False,
    )
    with cpu_threads(1):
        for name in toy.weightings:
            began = time.monotonic()
            make = partial(_method, toy, name, seed)
            walks[name] = [walk(problem, make, start, walker) for start in toy.starts]
            seconds[name] = time.monotonic() - began
            arrived = sum(problem.at_front(one.end) for one in walks[name])
            console.print(
                f"{name}: {arrived} of {len(walks[name])} at the front, {seconds[name]:.1f} s",
                highlight=False,
            )
    return walks, seconds


def _method(toy: ToyConfig, name: str, seed: int) -> Weighting:
    seed_global(seed, "init", "weighting")
    facts = {"tasks": INFOS, "layers": 1, "channels": 2}
    return build.bare_weighting(toy.settings[name], f"toy.settings.{name}", **facts)


def _check(name: str, weighting: Weighting) -> None:
    if weighting.uses_evaluation:
        raise UserError(
            f"toy.weightings: {name} looks at validation metrics, and the toy has none. Leave it "
            "out."
        )
    if weighting.adapters():
        raise UserError(
            f"toy.weightings: {name} puts layers between the features and the heads, and the toy "
            "has no heads. Leave it out."
        )


# -- what is written -------------------------------------------------------------------------------


def _write_trajectories(path: Path, walks: Walks) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, of_method in walks.items():
        for number, one in enumerate(of_method, start=1):
            for step, point, losses in zip(one.steps, one.points, one.losses, strict=True):
                figures = [shown(float(value)) for value in (*point, *losses)]
                writer.writerow([name, number, step, *figures])
    write_text(path, text.getvalue())


def _write_events(folder: Path, walks: Walks, picture: bytes) -> None:
    """The picture, and for each method and loss a chart of the curves from all starts."""
    charts: dict[str, list[object]] = {}
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()  # of an attempt that was stopped
    with SummaryWriter(str(folder)) as writer:
        for name, of_method in walks.items():
            for loss, task in enumerate(TASKS):
                tags = [f"{name}/{task}/start_{i}" for i in range(1, len(of_method) + 1)]
                charts[f"{name} {task}"] = ["Multiline", tags]
                for tag, one in zip(tags, of_method, strict=True):
                    every = max(1, len(one.steps) // CURVE_POINTS)
                    for place in range(0, len(one.steps), every):
                        writer.add_scalar(tag, one.losses[place, loss], one.steps[place])
        writer.add_custom_scalars({"toy": charts})
        writer.add_image("toy", picture_of(picture), dataformats="HWC")


def _result(problem: Problem, walks: Walks, seconds: Mapping[str, float]) -> dict[str, Any]:
    methods = {
        name: {
            "at_front": sum(problem.at_front(one.end) for one in of_method),
            "seconds": seconds[name],
            "walks": [
                {
                    "start": one.start,
                    "end": one.end,
                    "losses": one.losses[-1].tolist(),
                    "at_front": problem.at_front(one.end),
                    "steps": one.steps[-1],
                    "stopped": one.stopped,
                    "remarks": len(one.remarks),
                    "first_remark": one.remarks[0] if one.remarks else "",
                }
                for one in of_method
            ],
        }
        for name, of_method in walks.items()
    }
    return {"format": 1, "mtlrun": __version__, "torch": torch.__version__, "methods": methods}


# -- what is shown ---------------------------------------------------------------------------------


def _table(result: Mapping[str, Any]) -> Table:
    """A row a method: how many of its walks end at the Pareto set, and where each ends."""
    methods = result["methods"]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("front", justify="right", no_wrap=True)
    first = next(iter(methods.values()))
    for one in first["walks"]:
        table.add_column(_pair(one["start"]), justify="right", no_wrap=True)
    for name, of_method in methods.items():
        ends = [_pair(one["end"]) + ("*" if one["at_front"] else " ") for one in of_method["walks"]]
        table.add_row(name, f"{of_method['at_front']}/{len(ends)}", *ends)
    return table


def _pair(point: Sequence[float]) -> str:
    return " ".join(f"{value:.1f}" for value in point)


def _remarks(result: Mapping[str, Any]) -> Iterator[str]:
    """What was out of the ordinary in single walks."""
    yield "Where the walks from each start end; * is at the Pareto set."
    for name, of_method in result["methods"].items():
        for one in of_method["walks"]:
            from_start = f"{name} from {_pair(one['start'])}"
            if one["stopped"]:
                yield f"{from_start} stopped after {one['steps']} steps: {one['stopped']}"
            if one["remarks"]:
                yield f"{from_start}, {one['remarks']} steps, at first: {one['first_remark']}"


def _whereabouts(folder: Path, config: Config) -> Iterator[str]:
    yield f"Picture: {folder / 'toy.png'}"
    yield f"Paths: {folder / 'trajectories.csv'}"
    if config.tracking.tensorboard:
        yield f"Curves: mtlrun tensorboard {config.outputs}"
