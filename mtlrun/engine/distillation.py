"""What finished networks say of a batch, as a part of the losses that another one is trained by.

Sources: soft targets of several single-task teachers, beside the labels: MT-DNN (Liu et al.,
"Improving Multi-Task Deep Neural Networks via Knowledge Distillation for Natural Language
Understanding", 2019, arXiv 1904.09482). Teachers that count less and less: BAM! (Clark et al., ACL
2019, arXiv 1907.04829, section 3). Features, through adaptors: Li and Bilen ("Knowledge
Distillation for Multi-task Learning", ECCV Workshops 2020, arXiv 2007.06889).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtlrun.engine.backward import Forward
from mtlrun.models.layers import resize
from mtlrun.models.model import MultiTaskModel
from mtlrun.randomness import seed_global
from mtlrun.tasks.base import Task, masked_mean
from mtlrun.types import Batch, Layout, Lesson, StreamBatch

Lessons = dict[str, dict[str, Lesson]]
"""For each stream what is said of its tasks."""


@dataclass(frozen=True)
class Teaching:
    """How much teachers count.

    Attributes:
        temperature: of the soft targets of classes.
        weight: of what teachers say, from 0 to 1; labels have the rest.
        steps: over which the weight falls to 0; None keeps it.
        features: weight of matching their features.
        memory: bytes that what they say of all training rows may take, to be kept; 0 keeps nothing.
    """

    temperature: float = 1.0
    weight: float = 0.5
    steps: int | None = None
    features: float = 0.0
    memory: float = 0.0

    def weight_at(self, step: int) -> float:
        """The weight of what teachers say in a step, counted from 0."""
        return self.weight if self.steps is None else self.weight * (1 - step / self.steps)


@dataclass(frozen=True)
class Teacher:
    """A finished network.

    Attributes:
        name: what the user calls it.
        fingerprint: of its weights.
        forward: how it is called.
        tasks: those that it teaches.
    """

    name: str
    fingerprint: str
    forward: Forward
    tasks: tuple[str, ...]


class Adaptor(nn.Module):
    """A linear map of a network's features to another's, position by position, without bias.

    A 1x1 convolution for maps. It starts as in the authors' code (Glorot and Bengio 2010, normal).

    Args:
        in_channels: of the taught network.
        out_channels: of the teacher.
        layout: of both.
    """

    def __init__(self, in_channels: int, out_channels: int, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.layer: nn.Module
        if layout == "map":
            self.layer = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        else:
            self.layer = nn.Linear(in_channels, out_channels, bias=False)
        assert isinstance(self.layer.weight, Tensor)
        nn.init.xavier_normal_(self.layer.weight)

    def distance(self, features: Tensor, wanted: Tensor, rows: Tensor) -> Tensor:
        """The squared distance between unit vectors, the mean over rows and positions.

        Vectors are those of the channels, one a row, pixel or token. A map of another size than the
        teacher's is resized to it; tokens of padding count in nothing.

        Args:
            features: of the taught network, [N, ...].
            wanted: of the teacher, float32.
            rows: which count, bool [N].
        """
        # Under mixed precision, too, this is computed in float32
        mapped: Tensor = self.layer(features.float())
        dim = 2 if self.layout == "sequence" else 1
        if self.layout == "map":
            mapped = resize(mapped, (wanted.shape[2], wanted.shape[3]))
        distances = (unit(mapped, dim) - unit(wanted, dim)).square().sum(dim)
        here = rows.view(-1, *(1 for _ in distances.shape[1:])).expand_as(distances)
        if self.layout == "sequence":
            here = here & (wanted != 0).any(2)
        return masked_mean(distances, here)


SMALLEST = 1e-6
"""Added to squared lengths, as in the authors' code."""


def unit(features: Tensor, dim: int) -> Tensor:
    """Features at length 1 along their channels; those of length 0 stay there."""
    return features / (features.square().sum(dim, keepdim=True) + SMALLEST).sqrt()


class Distillation(nn.Module):
    """Teachers of some tasks. What they say becomes a part of the tasks' losses.

    The objective of a taught task is (1 - weight) times its loss plus weight times its loss against
    what its teachers say, plus ``features`` times the distance to what their heads read, a mean
    over them. BAM mixes the targets instead; for cross-entropies at temperature 1 (without weights
    of classes) that is the same, and for squared errors the same but for a constant.

    Adaptors are parameters of one task and train with its head. Teachers are in evaluation mode,
    are no submodules, and see the very inputs that the taught network sees.

    Args:
        teachers: finished networks; those of one task are averaged.
        tasks: of the run.
        model: the network that is taught.
        teaching: how much they count.
        seed: of the adaptors' initial weights.

    Raises:
        ValueError: features are to be matched, and a teacher's are laid out otherwise.

    Attributes:
        taught: the tasks that have teachers, in the run's order.
        kept: for some streams what teachers say of all training rows.
        weight: of what they say in the current step.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        tasks: Mapping[str, Task],
        model: MultiTaskModel,
        teaching: Teaching,
        seed: int,
    ) -> None:
        super().__init__()
        self.teachers = tuple(teachers)
        self.tasks = dict(tasks)
        self.teaching = teaching
        self.weight = teaching.weight
        self.taught = tuple(name for name in tasks if any(name in t.tasks for t in teachers))
        self.kept: Lessons = {}
        # A list, not a ModuleDict: a task's name may hold a dot
        self.adaptors = nn.ModuleList(
            nn.ModuleList(self._adaptors(name, model, seed)) for name in self.taught
        )

    def _adaptors(self, task: str, model: MultiTaskModel, seed: int) -> list[Adaptor]:
        """An adaptor for each teacher of a task, where features are matched."""
        made: list[Adaptor] = []
        if not self.teaching.features:
            return made
        layout = model.architecture.layout(task)
        for teacher in self.teachers:
            if task not in teacher.tasks:
                continue
            other = teacher.forward.model.architecture
            if other.layout(task) != layout:
                raise ValueError(
                    f"the head of {task} reads {layout}s here, and in {teacher.name} it reads "
                    f"{other.layout(task)}s"
                )
            seed_global(seed, "init", "adaptor", task, len(made))
            channels = model.architecture.out_channels(task), other.out_channels(task)
            made.append(Adaptor(*channels, layout))
        return made

    def adaptor_parameters(self, task: str) -> list[nn.Parameter]:
        """Of one task's adaptors."""
        if task not in self.taught:
            return []
        return list(self.adaptors[self.taught.index(task)].parameters())

    # -- what teachers say -------------------------------------------------------------------------

    def begin_step(self, batches: Sequence[Batch], step: int) -> None:
        """Ask the teachers about a step's micro-batches.

        Args:
            batches: the micro-batches.
            step: optimizer steps done before, over the whole run.
        """
        self.weight = self.teaching.weight_at(step)
        for batch in batches:
            self.teach(batch)

    def teach(self, batch: Batch) -> None:
        """Put what teachers say of a batch of training rows into it, once."""
        unknown: Batch = {}
        for stream, part in batch.items():
            if stream in self.kept and part.rows is not None:
                part.lessons = self._picked(stream, part)
            elif not part.lessons:
                unknown[stream] = part
        for stream, lessons in self.ask(unknown).items():
            unknown[stream].lessons = lessons

    def _picked(self, stream: str, part: StreamBatch) -> dict[str, Lesson]:
        """What is kept of a batch's rows."""
        assert part.rows is not None
        rows = part.rows.to(part.inputs.device)
        return {
            name: picked(lesson, rows)
            for name, lesson in self.kept[stream].items()
            if name in part.present
        }

    @torch.no_grad()
    def ask(self, batch: Batch) -> Lessons:
        """What teachers say of the tasks that a batch has labels for."""
        answers: dict[str, list[Tensor]] = {}
        features: dict[str, list[Tensor]] = {}
        present = {task for part in batch.values() for task in part.present}
        for teacher in self.teachers:
            forward = teacher.forward
            names = [name for name in forward.names if name in present and name in teacher.tasks]
            if not names:
                continue
            streams = {forward.stream_of[name] for name in names}
            indices = [forward.names.index(name) for name in names]
            read = forward.features({stream: batch[stream] for stream in streams}, indices)
            for index, name in zip(indices, names, strict=True):
                if self.teaching.weight:
                    answers.setdefault(name, []).append(forward.prediction(index, read[name]))
                if self.teaching.features:
                    features.setdefault(name, []).append(read[name].float())
        return {
            stream: {
                name: self._lesson(name, answers.get(name), features.get(name, ()))
                for name in part.present
                if name in answers or name in features
            }
            for stream, part in batch.items()
        }

    def _lesson(
        self, name: str, answers: Sequence[Tensor] | None, features: Sequence[Tensor]
    ) -> Lesson:
        answer = None
        if answers is not None:
            answer = self.tasks[name].soft_targets(answers, self.teaching.temperature)
        return Lesson(answer, tuple(features))

    # -- what becomes of it ------------------------------------------------------------------------

    def objective(
        self, name: str, loss: Tensor, prediction: Tensor, features: Tensor, part: StreamBatch
    ) -> Tensor:
        """A task's loss with the teachers' part in it.

        Args:
            name: the task.
            loss: against the labels.
            prediction: of the taught network.
            features: that its head reads.
            part: the rows; without what teachers say of the task, the loss stays what it is.
        """
        lesson = part.lessons.get(name)
        if lesson is None:
            return loss
        task, target = self.tasks[name], part.targets[name]
        if lesson.answer is not None:
            soft = task.soft_loss(prediction, lesson.answer, target, self.teaching.temperature)
            loss = (1 - self.weight) * loss + self.weight * soft
        if lesson.features:
            rows = task.labelled(target)
            adaptors = self.adaptors[self.taught.index(name)]
            assert isinstance(adaptors, nn.ModuleList)
            distances = []
            for adaptor, wanted in zip(adaptors, lesson.features, strict=True):
                assert isinstance(adaptor, Adaptor)
                distances.append(adaptor.distance(features, wanted, rows))
            loss = loss + self.teaching.features * torch.stack(distances).mean()
        return loss

    # -- checkpoints -------------------------------------------------------------------------------

    def get_extra_state(self) -> list[str]:
        """For the checkpoint: whose answers the run has learnt from."""
        return [teacher.fingerprint for teacher in self.teachers]

    def set_extra_state(self, state: list[str]) -> None:
        """Refuse to go on with other teachers.

        Raises:
            ValueError: one of them has other weights now.
        """
        for teacher, fingerprint in zip(self.teachers, state, strict=True):
            if teacher.fingerprint != fingerprint:
                raise ValueError(f"the teacher {teacher.name} has other weights now")


def picked(lesson: Lesson, rows: Tensor) -> Lesson:
    """What a lesson says of some of its rows, int64 [N], on its device."""
    answer = None if lesson.answer is None else lesson.answer.index_select(0, rows)
    return Lesson(answer, tuple(part.index_select(0, rows) for part in lesson.features))
