"""The training loop: epochs of steps, evaluation, selection, checkpoints, stopping."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mtlrun.data.base import Dataset
from mtlrun.engine.backward import Forward
from mtlrun.engine.evaluation import Figures, Selection, as_evaluation, evaluate, headline
from mtlrun.engine.interrupts import StopRequest
from mtlrun.engine.kept_lessons import keep_lessons
from mtlrun.engine.leaving import Leaving
from mtlrun.engine.ledger import Ledger, nonfinite_loss, of_task, of_term
from mtlrun.engine.loader import EvaluationLoader, Placement, TrainLoader
from mtlrun.engine.pictures import dense_pictures
from mtlrun.engine.probe import GradientProbe
from mtlrun.engine.saving import Saving, Stateful
from mtlrun.engine.step import TrainingStep
from mtlrun.engine.stopping import Seen, Stopping
from mtlrun.errors import Interrupted
from mtlrun.models.model import MultiTaskModel
from mtlrun.tasks.base import Task
from mtlrun.tracking.tracker import Tracker
from mtlrun.weighting.base import Weighting


@dataclass(frozen=True)
class Schedule:
    """How long to train, and what to do on the way.

    Attributes:
        epochs: how many.
        select_on: the split that chooses the best epoch, ``val`` or ``test``.
        log_every: steps between rows of ``losses.csv``.
        checkpoint_minutes: time between checkpoints within an epoch.
        skip_nonfinite: whether steps with a NaN or infinite loss are left out.
        images: examples of dense tasks to draw.
    """

    epochs: int
    select_on: str = "val"
    log_every: int = 20
    checkpoint_minutes: float = 10.0
    skip_nonfinite: bool = False
    images: int = 0


@dataclass
class Parts:
    """What a run is put together from.

    Attributes:
        primary: the tasks that the run is for, in its order; given empty, all of them.
        stopping: ends training before the last epoch; None for never.
    """

    dataset: Dataset
    tasks: Mapping[str, Task]
    model: MultiTaskModel
    weighting: Weighting
    optimizer: Optimizer
    scheduler: LRScheduler | None
    loader: TrainLoader
    step: TrainingStep
    placement: Placement
    evaluation_batch_size: int
    primary: tuple[str, ...] = ()
    stopping: Stopping | None = None

    def __post_init__(self) -> None:
        self.primary = self.primary or tuple(self.tasks)


class Engine:
    """Trains, evaluates and tests; stops and resumes anywhere.

    Args:
        parts: what the run is put together from.
        schedule: how long to train.
        folder: of the checkpoints.
        tracker: takes the figures.
        log: the run's log.
        baseline: from an evaluation's figures, for each task its change against a single-task run,
            for ``val/delta_m`` (mean over tasks); None to leave it out.
        alone: likewise, for a weighting that looks at such changes.
    """

    def __init__(
        self,
        parts: Parts,
        schedule: Schedule,
        folder: Path,
        tracker: Tracker,
        log: logging.Logger,
        baseline: Callable[[Figures], dict[str, float]] | None = None,
        alone: Callable[[Figures], dict[str, float]] | None = None,
    ) -> None:
        self.parts = parts
        self.schedule = schedule
        self.tracker = tracker
        self.log = log
        self.baseline = baseline
        self.alone = alone
        self.forward: Forward = parts.step.backward.forward
        self.ledger = Ledger(tuple(parts.tasks), parts.model.architecture.terms)
        self.selection = Selection(parts.model.independent_groups(), parts.primary)
        self.final: Figures = {}
        self.epoch = 0
        self.steps_in_epoch = 0
        self.steps = 0
        self.seconds = 0.0
        self.stop = StopRequest()
        self.leaving = Leaving(parts.stopping, parts.step, parts.loader) if parts.stopping else None
        self.saving = Saving(folder, parts.model, self._stateful())
        self._loaders: dict[str, EvaluationLoader] = {}
        self._probe = self._probe_for(parts.loader)

    def _probe_for(self, loader: TrainLoader) -> GradientProbe | None:
        compares = loader.sampler.compares
        if compares == "nothing" or not loader.sampler.refresh_every:
            return None
        return GradientProbe(self.forward, loader, "train" if compares == "training" else "val")

    # -- the recipe --------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train until the last epoch, or what is to stop it, from wherever the run stands.

        Raises:
            Interrupted: after SIGINT or SIGTERM: the step is finished and a checkpoint written.
            UserError: a loss was NaN or infinite, and such steps are not skipped.
        """
        self._resume()
        self._keep_lessons()
        with self.stop:
            while self.epoch < self.schedule.epochs and self.ended is None:
                self._train_epoch()
                self._close_epoch()

    def _keep_lessons(self) -> None:
        """Ask teachers about all training rows before the first step, where that can be done."""
        distillation = self.forward.distillation
        if distillation is None or self.epoch >= self.schedule.epochs or self.ended is not None:
            return
        began, parts = time.monotonic(), self.parts
        keep_lessons(
            distillation,
            parts.dataset,
            parts.placement,
            batch_size=parts.evaluation_batch_size,
            note=self._note,
        )
        self.seconds += time.monotonic() - began

    def _note(self, text: str) -> None:
        self.log.info(text)
        self.tracker.display.note(text)

    @property
    def ended(self) -> str | None:
        """Why training ended before its last epoch, where it did."""
        return self.parts.stopping.ended if self.parts.stopping else None

    def test(self) -> Figures:
        """Metrics of the best epoch's model on the test split, read here for the first time.

        With ``select_on=test``, those of the best epoch as it was seen in training.
        """
        self.saving.load_best()
        figures = evaluate(self.forward, self._loader("test"))
        if self.schedule.select_on != "test":
            self.tracker.metrics(self.epoch, self.steps, "test", figures)
        return figures

    # -- epochs ------------------------------------------------------------------------------------

    def _train_epoch(self) -> None:
        parts, began = self.parts, time.monotonic()
        saved = began
        parts.model.train()
        if self.steps_in_epoch == 0:
            parts.weighting.start_epoch(self.ledger.epoch_means)
        with closing(parts.loader.epoch(self.epoch, self.steps_in_epoch)) as steps:
            for batches in steps:
                figures = parts.step(batches, self.epoch, self.steps)
                self.steps += 1
                self.steps_in_epoch += 1
                if figures.nonfinite is not None:
                    self._nonfinite(figures.nonfinite)
                if figures.remark is not None:
                    self.log.warning("step %d: %s", self.steps, figures.remark)
                self.ledger.add(self.steps, figures)
                self._refresh_sampler()
                if self.steps % self.schedule.log_every == 0 or self.steps == 1:
                    self._log_steps()
                now = time.monotonic()
                if self.stop.signal is not None:
                    self.seconds += now - began
                    self._stop()
                if now - saved > 60 * self.schedule.checkpoint_minutes:
                    self.seconds += now - began
                    self._save()
                    began = saved = time.monotonic()
        self.seconds += time.monotonic() - began

    def _refresh_sampler(self) -> None:
        sampler = self.parts.loader.sampler
        if self._probe is None or self.steps % sampler.refresh_every:
            return
        sampler.refresh(self._probe.cosines(sampler.units, self.epoch, self.steps))

    def _nonfinite(self, number: int) -> None:
        losses = [*map(of_task, self.parts.tasks), *map(of_term, self.ledger.terms)]
        name = losses[number]
        if not self.schedule.skip_nonfinite:
            raise nonfinite_loss(name, self.steps)
        self.log.warning("step %d skipped: loss or gradient of %s not finite", self.steps, name)

    def _log_steps(self) -> None:
        losses, conflicts = self.ledger.rows(self.steps, self.epoch + 1)
        self.tracker.steps(losses, conflicts, self.steps, self.epoch + 1)
        if self.ledger.terms:
            self.tracker.terms(self.ledger.term_rows(self.steps, self.epoch + 1))
        for watcher in self.parts.step.watchers:
            watcher.log(self.tracker, self.steps, self.epoch + 1)

    def _close_epoch(self) -> None:
        began, parts = time.monotonic(), self.parts
        if self.steps % self.schedule.log_every:
            self._log_steps()  # so that every epoch's last steps are in the files
        for watcher in parts.step.watchers:
            watcher.close_epoch(self.tracker, self.steps, self.epoch + 1)
        means = self.ledger.close_epoch()
        for pair, share in self.ledger.conflicts.close_epoch().items():
            names = "-".join(self.ledger.tasks[index] for index in pair)
            self.tracker.scalar(f"train/conflict_share/{names}", share, self.steps)
        train = {t: {"loss": m} for t, m in zip(self.parts.tasks, means, strict=True) if m == m}
        sampler = parts.loader.sampler
        if not sampler.joint:
            for unit, chance in zip(sampler.units, sampler.probabilities(self.epoch), strict=True):
                for task in unit.tasks:
                    train.setdefault(task, {})["sampling_probability"] = float(chance)
        self.epoch += 1
        self.steps_in_epoch = 0
        self.tracker.metrics(self.epoch, self.steps, "train", train)
        figures = evaluate(self.forward, self._loader(self.schedule.select_on))
        learned = parts.model.architecture.structure()
        if learned:
            self.tracker.structure(learned, self.epoch, self.steps)
        self.final = figures
        self.tracker.metrics(self.epoch, self.steps, self.schedule.select_on, figures)
        delta_m = self._delta_m(figures)
        self._draw()
        self._step_scheduler(figures)
        changes = self.alone(figures) if self.alone else {}
        for part in (parts.weighting, sampler):
            if part.uses_evaluation:
                part.after_evaluation(as_evaluation(parts.tasks, figures, changes))
        improved = self.selection.update(self.parts.tasks, figures, self.epoch)
        if improved:
            self.saving.keep_best(self.selection, improved)
        said = self._look_at_stopping(figures, delta_m)
        self.seconds += time.monotonic() - began
        self._save()
        text = self._summary(figures)
        self.log.info("epoch %d/%d  %s", self.epoch, self.schedule.epochs, text)
        remark = parts.weighting.remark()
        if remark is not None:
            self.log.info("epoch %d: %s", self.epoch, remark)
        self.tracker.display.epoch(self.epoch, text)
        for sentence in said:
            self._note(f"epoch {self.epoch}: {sentence}")
        if self.stop.signal is not None:
            self._stop()

    def _delta_m(self, figures: Figures) -> float:
        """The mean change against training each task alone; NaN where nothing is known."""
        changes = self.baseline(figures) if self.baseline else {}
        delta_m = fmean(list(changes.values()) or [math.nan])
        self.tracker.scalar(f"{self.schedule.select_on}/delta_m", delta_m, self.steps)
        return delta_m

    def _look_at_stopping(self, figures: Figures, delta_m: float) -> list[str]:
        """Let the stopping decide who goes on; what the user is told."""
        if self.leaving is None:
            return []
        seen = Seen(self.epoch, figures, max(self.selection.epoch), delta_m)
        said = self.leaving.after_epoch(seen)
        for task, active in self.leaving.active().items():
            self.tracker.scalar(f"train/active/{task}", float(active), self.steps)
        return said

    def _step_scheduler(self, figures: Figures) -> None:
        scheduler = self.parts.scheduler
        if isinstance(scheduler, ReduceLROnPlateau):
            primary = (figures[name] for name in self.parts.primary if name in figures)
            scheduler.step(sum(values["loss"] for values in primary))
        elif scheduler is not None:
            scheduler.step()

    def _summary(self, figures: Figures) -> str:
        split = self.schedule.select_on
        shown = [
            f"{name} {headline(task)} {figures[name][headline(task)]:.4g}"
            for name, task in self.parts.tasks.items()
            if name in figures
        ]
        return f"{split}: {', '.join(shown)}"

    def _draw(self) -> None:
        """Pictures of dense tasks: in the first and last epoch, and some ten times between."""
        rhythm = math.ceil(self.schedule.epochs / 10)
        due = self.epoch == 1 or self.epoch == self.schedule.epochs or self.epoch % rhythm == 0
        if not (self.schedule.images and due and self.tracker.wants_images):
            return
        loader = self._loader(self.schedule.select_on)
        for task, pictures in dense_pictures(self.forward, loader, self.schedule.images).items():
            tag = f"{self.schedule.select_on}/{task}/input, target, prediction"
            self.tracker.images(tag, pictures, self.steps)

    def _loader(self, split: str) -> EvaluationLoader:
        if split not in self._loaders:
            self._loaders[split] = EvaluationLoader(
                self.parts.dataset,
                split,
                self.parts.tasks,
                batch_size=self.parts.evaluation_batch_size,
                placement=self.parts.placement,
            )
        return self._loaders[split]

    # -- checkpoints -------------------------------------------------------------------------------

    def _stateful(self) -> dict[str, Stateful]:
        """What has a state beside the network."""
        parts = self.parts
        found: dict[str, Stateful] = {
            "weighting": parts.weighting,
            "optimizer": parts.optimizer,
            "backward": parts.step.backward,
            "sampler": parts.loader.sampler,
            "loader": parts.loader,
            "ledger": self.ledger,
            "selection": self.selection,
        }
        if parts.scheduler:
            found["scheduler"] = parts.scheduler
        if self.forward.distillation is not None:
            found["distillation"] = self.forward.distillation
        if self.leaving:
            found["stopping"] = self.leaving
        return found | {f"watcher/{watcher.name}": watcher for watcher in parts.step.watchers}

    def _save(self) -> None:
        """Write ``last.pt``: everything that the rest of the run depends on."""
        self.ledger.read_back()  # a loss that is not finite stops the run before it is saved
        self.saving.write(
            {
                "epoch": self.epoch,
                "steps_in_epoch": self.steps_in_epoch,
                "steps": self.steps,
                "seconds": self.seconds,
                "final": self.final,
                "tracker": self.tracker.state_dict(),
            }
        )

    def _resume(self) -> None:
        state, remarks = self.saving.read()
        for remark in remarks:
            self.log.warning(remark)
            self.tracker.display.note(remark)
        if state is None:
            self.tracker.open(None, 0)
            return
        self.final = state["final"]
        self.epoch, self.steps_in_epoch = state["epoch"], state["steps_in_epoch"]
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.tracker.open(state["tracker"], self.steps)
        place = f"step {self.steps}, after {self.epoch} of {self.schedule.epochs} epochs"
        self.log.info("going on from %s", place)
        self.tracker.display.note(f"Going on from {place}.")

    def _stop(self) -> None:
        self._save()
        assert self.stop.signal is not None
        epoch = min(self.epoch + 1, self.schedule.epochs)
        raise Interrupted(
            f"Stopped at step {self.steps} (epoch {epoch}); the checkpoint is written. "
            "Repeat the same command to go on from here.",
            128 + self.stop.signal,
        )
