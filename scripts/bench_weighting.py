"""What balancing costs: every method's optimizer step against an ordinary one.

Ratios to ``bare``, a hand-written loop on the sum of the losses of the same network with the same
optimizer. Everything in a row is measured in one process, in turns, round by round; shown are
medians and quartiles over the rounds, beside the goals that the engine is to meet (set for two
threads and the wall clock) and, where it is installed, torchjd's step with the same method.

    python scripts/bench_weighting.py                            # all sections
    python scripts/bench_weighting.py step --methods mgda equal --tasks 3 --models mlp
    python scripts/bench_weighting.py engine memory --save figures.json
    python scripts/bench_weighting.py step --clock cpu --threads 1   # on a busy machine

Sections:

* ``step``: every method in ``configs/weighting``, as its file has it. Where steps are long (CNN
  from T = 8), a few stand for all unless ``--methods`` names others. The goals hold for methods
  that see one batch's Gramian of the gradients on parameters, for those that see losses only, and
  for those at the representation. Methods that see every gradient's entries, or several batches,
  have none here.
* ``engine``: the engine alone, with weights by inverse norms, in its three ways: rows as it
  chooses, every row in full, and part by part with memory for a tenth of all rows.
* ``solvers``: ``weights(G)`` alone on random Gramians, as a share of the bare step.
* ``memory``: peak memory of a step over the resting model, a process for each cell (Linux only).
* ``every``: gradients every tenth step (average over ten), gradients at the representation,
  methods that see losses only (three times the rounds), and MoDo and SDMGrad against a step
  on one batch.

Rounds are halved, to 3 at least, and torchjd's default setting is left out on the CNN from T = 40.
All sections together take some 12 minutes on two idle cores.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from bench_measure import CLOCKS, Row, Section, Stopwatch, over, save, show
from bench_memory import measured_mib
from bench_models import (
    EPOCH,
    LEARNING_RATE,
    MODELS,
    EngineStep,
    InverseNorms,
    Model,
    Problem,
    Step,
    bare_step,
    method,
    methods,
    torchjd_aggregators,
    torchjd_step,
)
from torch import Tensor

from mtlrun.types import StepInfo
from mtlrun.weighting.base import GramianWeighting, LossWeighting, Weighting
from mtlrun.weighting.solvers import SolverError

GOALS: dict[tuple[Model, int], tuple[float, float]] = {
    ("mlp", 3): (1.8, 2.55),
    ("mlp", 8): (2.6, 4.1),
    ("mlp", 40): (6.0, 13.7),
    ("cnn", 3): (2.3, 2.65),
    ("cnn", 8): (5.0, 6.6),
    ("cnn", 40): (24.0, 31.0),
}
"""For a step with task gradients: the goal, and torchjd's best when it was set."""
MEMORY_GOALS = {3: (1.5, 1.5), 16: (2.5, 7.2), 40: (4.2, 17.4)}
"""The same for peak memory on the CNN."""
SEGMENTS_MEMORY_GOALS = {3: 1.3}
SOLVER_GOALS = {3: 0.02}
LOSSES_GOAL = 1.01
REPRESENTATION_GOAL = 1.05
EVERY, EVERY_GOALS = 10, {3: 1.2}
SEVERAL_BATCHES, SEVERAL_BATCHES_GOAL = ("modo", "sdmgrad"), 3.0
STAND_FOR_ALL = ("cagrad", "equal", "mgda", "nash_mtl", "upgrad")
MORE_ROUNDS = 3  # times as many, for ratios that are to be good to about 1 %


@dataclass(frozen=True)
class Options:
    """What to measure."""

    methods: tuple[str, ...] | None
    models: tuple[Model, ...]
    tasks: tuple[int, ...] | None
    watch: Stopwatch
    threads: int
    torchjd: bool

    def cells(self, *tasks: int) -> Iterator[tuple[Model, int]]:
        """Models with numbers of tasks: those chosen, or else ``tasks``."""
        for model in self.models:
            for count in self.tasks or tasks:
                yield model, count

    def chosen(self, kind: type[Weighting], problem: Problem) -> dict[str, Weighting]:
        """The methods of one kind among those chosen."""
        names = methods() if self.methods is None else self.methods
        made = {name: method(name, problem.again()) for name in names}
        return {name: weighting for name, weighting in made.items() if isinstance(weighting, kind)}

    def rounds_of(self, model: Model, tasks: int) -> Stopwatch:
        """Fewer rounds where steps are long."""
        if not long_steps(model, tasks):
            return self.watch
        return replace(self.watch, rounds=min(self.watch.rounds, max(3, self.watch.rounds // 2)))


def long_steps(model: Model, tasks: int) -> bool:
    """Whether a step with task gradients takes seconds."""
    return model == "cnn" and tasks >= 40


# -- step ------------------------------------------------------------------------------------------


def steps(options: Options) -> Section:
    """Every method against bare, torchjd's beside it."""
    section = Section("step", "time of a step / bare")
    known = set(torchjd_aggregators()) if options.torchjd else set()
    for model, tasks in options.cells(2, 3, 8, 40):
        problem = Problem.of(model, tasks)
        watch = options.rounds_of(model, tasks)
        names = options.methods or methods()
        if options.methods is None and model == "cnn" and tasks >= 8:
            names = [name for name in names if name in STAND_FOR_ALL]
        for name in names:
            engine = EngineStep.of(name, problem)
            others, lacking = torchjd_steps(model, problem, name) if name in known else ({}, "")
            times = watch.seconds({"bare": bare_step(problem), "ours": engine, **others})
            beside = {other: over(times[other], times["bare"]) for other in others}
            goal, earlier = step_goal(engine, model, tasks)
            note = f"{engine.failures} solver failures" if engine.failures else lacking
            ratios = over(times["ours"], times["bare"])
            section.add(Row(model, tasks, name, ratios, goal, beside, earlier, note))
    return section


def torchjd_steps(model: Model, problem: Problem, name: str) -> tuple[dict[str, Step], str]:
    """torchjd's step in its default setting and task by task; or none, and why."""
    try:
        found = {"torchjd, chunk 1": torchjd_step(problem, name, chunk=1)}
    except ImportError:
        return {}, "torchjd's needs further packages"
    if not long_steps(model, len(problem.tasks)):  # there the default takes three times as long
        found["torchjd"] = torchjd_step(problem, name)
    return found, ""


def step_goal(engine: EngineStep, model: Model, tasks: int) -> tuple[float | None, float | None]:
    """The goal for a method's step, and torchjd's figure when it was set."""
    weighting = engine.step.weighting
    if isinstance(weighting, LossWeighting):
        return (None if weighting.reevaluates else LOSSES_GOAL), None
    if isinstance(weighting, GramianWeighting) and weighting.place == "representation":
        return REPRESENTATION_GOAL, None
    if engine.swept:
        return GOALS.get((model, tasks), (None, None))
    return None, None


# -- engine ----------------------------------------------------------------------------------------


def engines(options: Options) -> Section:
    """The engine's ways against bare."""
    section = Section("engine", "time of a step with cheap weights / bare")
    for model, tasks in options.cells(2, 3, 8, 40):
        problem = Problem.of(model, tasks)
        contenders: dict[str, Step] = {
            "bare": bare_step(problem),
            "as chosen": EngineStep(problem, InverseNorms()),
            "rows in full": EngineStep(problem, InverseNorms(), way="plain"),
            "segments": EngineStep(problem, InverseNorms(), way="segments"),
        }
        if options.torchjd:
            contenders["torchjd, chunk 1"] = torchjd_step(problem, "mgda", chunk=1)
        times = options.rounds_of(model, tasks).seconds(contenders)
        for name in list(contenders)[1:]:
            goal, earlier = GOALS.get((model, tasks), (None, None))
            if name != "as chosen":
                goal, earlier = None, None
            ratios = over(times[name], times["bare"])
            milliseconds = statistics.median(times["bare"]) * 1e3
            note = f"bare: {milliseconds:.1f} ms" if name == "as chosen" else ""
            section.add(Row(model, tasks, name, ratios, goal, {}, earlier, note))
    return section


# -- solvers ---------------------------------------------------------------------------------------


def random_gramians(rows: int, count: int = 20) -> list[Tensor]:
    """Gramians of gradients with conflicts and unlike norms, [rows, rows]."""
    draws = torch.Generator().manual_seed(rows)
    found = []
    for _ in range(count):
        jacobian = torch.randn(rows, 2 * rows + 10, generator=draws, dtype=torch.float64)
        jacobian *= torch.randn(rows, 1, generator=draws, dtype=torch.float64).exp()
        found.append(jacobian @ jacobian.T)
    return found


def solver_seconds(
    weighting: GramianWeighting,
    tasks: int,
    layers: int,
    now: Callable[[], float],
    least: float = 0.2,
) -> tuple[list[float], int]:
    """Seconds of each call, for ``least`` seconds in all; and how many calls had no answer."""
    weighting.start_epoch([])
    rows = tasks * weighting.batches
    losses = torch.linspace(0.5, 1.5, rows, dtype=torch.float64)
    gramians = random_gramians(rows)
    times: list[float] = []
    failures = 0
    while len(times) < 5 or (sum(times) < least and len(times) < 500):
        step = len(times)
        gramian = gramians[step % len(gramians)]
        if weighting.per_layer:
            gramian = gramian.expand(layers, rows, rows)
        info = StepInfo(0, EPOCH, step, tuple(range(tasks)), LEARNING_RATE)
        weighting.begin_step(info)
        weighting.inner_losses = 0.9 * losses[:tasks]
        began = now()
        try:
            with torch.no_grad():
                weighting.weights(gramian, losses)
        except SolverError:
            failures += 1
        times.append(now() - began)
    return times[1:], failures  # the first call imports and warms up


def solvers(options: Options) -> Section:
    """The time for weights, given the Gramian."""
    model: Model = "mlp" if "mlp" in options.models else "cnn"
    section = Section("solvers", f"time of weights(G) / bare step of the {model}", percent=True)
    now = CLOCKS[options.watch.clock]
    for tasks in options.tasks or (3, 8, 40):
        problem = Problem.of(model, tasks)
        bare = statistics.median(options.watch.seconds({"bare": bare_step(problem)})["bare"])
        layers = len(problem.model.shared_layers())
        for name, weighting in options.chosen(GramianWeighting, problem).items():
            assert isinstance(weighting, GramianWeighting)
            times, failures = solver_seconds(weighting, tasks, layers, now)
            note = f"{statistics.median(times) * 1e3:.3f} ms"
            if failures:
                note += f", {failures} solver failures"
            shares = [seconds / bare for seconds in times]
            section.add(Row(model, tasks, name, shares, SOLVER_GOALS.get(tasks), {}, None, note))
    return section


# -- memory ----------------------------------------------------------------------------------------


def memory(options: Options) -> Section:
    """Peaks of steps over the resting model."""
    section = Section("memory", "peak memory of a step / bare")
    for model, tasks in options.cells(3, 16, 40):
        if model == "mlp" and options.tasks is None and tasks == 16:
            continue
        bare = measured_mib(model, tasks, "bare", options.threads)
        for way in ("chosen", "segments", *(["torchjd"] if options.torchjd else [])):
            mib = measured_mib(model, tasks, way, options.threads)
            goal, earlier = None, None
            if model == "cnn" and way == "chosen":
                goal, earlier = MEMORY_GOALS.get(tasks, (None, None))
            if model == "cnn" and way == "segments":
                goal = SEGMENTS_MEMORY_GOALS.get(tasks)
            note = f"{mib:.0f} MiB, bare {bare:.0f} MiB"
            section.add(Row(model, tasks, way, [mib / bare], goal, {}, earlier, note))
    return section


# -- every -----------------------------------------------------------------------------------------


def every(options: Options) -> Section:
    """What costs less than task gradients in each step, and what needs several batches."""
    section = Section("every", "time of a step / bare, or as said")
    for model, tasks in options.cells(3):
        problem = Problem.of(model, tasks)
        bare, watch = bare_step(problem), options.rounds_of(model, tasks)

        def against_bare(
            name: str,
            engine: EngineStep,
            goal: float | None,
            steps: int | None = None,
            cell: tuple[Model, int] = (model, tasks),
            base: Step = bare,
            watch: Stopwatch = watch,
        ) -> None:
            times = watch.seconds({"bare": base, "ours": engine}, steps)
            section.add(Row(*cell, name, over(times["ours"], times["bare"]), goal))

        spaced = EngineStep.of("mgda", problem, every=EVERY)
        against_bare(f"mgda, gradients.every={EVERY}", spaced, EVERY_GOALS.get(tasks), EVERY)
        features = EngineStep.of("mgda", problem, at="representation")
        against_bare("mgda, gradients.at=representation", features, REPRESENTATION_GOAL)
        for name, weighting in options.chosen(LossWeighting, problem).items():
            assert isinstance(weighting, LossWeighting)
            goal = None if weighting.reevaluates else LOSSES_GOAL
            engine = EngineStep.of(name, problem)
            against_bare(
                name, engine, goal, watch=replace(watch, rounds=MORE_ROUNDS * watch.rounds)
            )
        several_batches(section, problem, (model, tasks), watch)
    return section


def several_batches(
    section: Section, problem: Problem, cell: tuple[Model, int], watch: Stopwatch
) -> None:
    """Methods with several batches a step against a step on one batch, in both kinds of rows."""
    for name in SEVERAL_BATCHES:
        contenders: dict[str, Step] = {
            "ours": EngineStep.of(name, problem),
            "one batch, rows in full": EngineStep(problem, InverseNorms(), way="plain"),
            "one batch, as chosen": EngineStep(problem, InverseNorms()),
        }
        times = watch.seconds(contenders)
        for base in list(contenders)[1:]:
            ratios = over(times["ours"], times[base])
            section.add(Row(*cell, f"{name} / {base}", ratios, SEVERAL_BATCHES_GOAL))


# -- command ---------------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[Options], Section]] = {
    "engine": engines,
    "step": steps,
    "solvers": solvers,
    "every": every,
    "memory": memory,
}


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)}; all by default"
    )
    parser.add_argument("--methods", nargs="+", choices=methods(), metavar="METHOD")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--tasks", nargs="+", type=int, help="numbers of tasks, for each section")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--no-torchjd", action="store_true", help="leave torchjd out")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write all figures as JSON")
    found = parser.parse_args(arguments)
    unknown = [name for name in found.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {unknown[0]!r}: choose from {', '.join(SECTIONS)}")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    given = parsed(arguments)
    options = Options(
        methods=None if given.methods is None else tuple(given.methods),
        models=tuple(given.models),
        tasks=None if given.tasks is None else tuple(given.tasks),
        watch=Stopwatch(given.clock, given.rounds),
        threads=given.threads,
        torchjd=not given.no_torchjd,
    )
    torch.set_num_threads(given.threads)
    about = {
        "torch": torch.__version__,
        "threads": given.threads,
        "clock": given.clock,
        "rounds": given.rounds,
        "load": os.getloadavg(),
    }
    done: list[Section] = []
    for name in given.sections or SECTIONS:
        began = time.perf_counter()
        done.append(SECTIONS[name](options))
        print(f"[{name}] {time.perf_counter() - began:.0f} s", file=sys.stderr)
        show(done[-1])
        if given.save is not None:
            save(given.save, done, about)


if __name__ == "__main__":
    main()
