"""Plain records that travel between the floors of the house."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Likelihood = Literal["classification", "gaussian", "laplace"]
"""What a task's loss is the negative log-likelihood of, up to scale: cross-entropies are
``classification``, squared errors ``gaussian``, absolute errors (and 1 - cosine) ``laplace``."""


Layout = Literal["vector", "map", "sequence"]
"""What features look like: ``vector`` [N, C]; ``map`` [N, C, H, W]; ``sequence`` [N, L, C], a
vector for each token, and exactly 0 in all channels where a row is padded, and nowhere else."""

Per = Literal["row", "pixel", "token"]
"""What a task has one prediction for."""

InputKind = Literal["values", "tokens", "bags", "columns"]
"""What the inputs of a stream are, [N, ...]:

* ``values``: numbers to compute with, any shape (images, features);
* ``tokens``: int64 [N, L], numbers of words below the fact ``vocabulary``; 0 is padding, at the end
  of a row only, and 1 is a word that is not in the vocabulary. L is the batch's longest row;
* ``bags``: likewise, in an order that says nothing (behind the words their pairs);
* ``columns``: float32 [N, C] of a table: first as many numeric columns as the fact ``numeric``
  says; then one column of codes for each entry of ``cardinalities`` (below it, 0 is missing or
  unseen); then ``text_length`` columns of tokens as above, below ``vocabulary``; 0 where there is
  no text.
"""


@dataclass(frozen=True)
class OutputShape:
    """The shape of a task's prediction.

    Attributes:
        channels: numbers in each prediction.
        per: what there is one for.
        size: (H, W) of a prediction for each pixel, else None.
    """

    channels: int
    per: Per
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Structure:
    """Something that an architecture has learned about who shares what, as a table of numbers.

    Attributes:
        name: what it is, with letters, digits, ``_`` and ``/``: part of a TensorBoard tag.
        rows: their names, for example the tasks.
        columns: their names, for example the experts.
        values: [rows, columns], on any device.
    """

    name: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Tensor


@dataclass(frozen=True)
class TaskInfo:
    """What a weighting may know of a task before training.

    Attributes:
        name: the task's name.
        likelihood: the family of its loss.
        initial_loss: the loss of an untrained network in theory (log C for a cross-entropy over C
            classes), None where there is none.
        train_rows: number of training rows that carry a label for the task.
        metrics: for each of its metrics whether higher is better, the headline metric first; empty
            where that is not known before an evaluation.
    """

    name: str
    likelihood: Likelihood
    initial_loss: float | None
    train_rows: int
    metrics: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Lesson:
    """What teachers say of a batch's rows about one task.

    Attributes:
        answer: their predictions together, as :meth:`mtlrun.tasks.base.Task.soft_targets` gives
            them, [N, ...]; None where these do not count.
        features: of each teacher what its head reads, [N, ...]; empty where these do not count.
    """

    answer: Tensor | None
    features: tuple[Tensor, ...] = ()


@dataclass
class StreamBatch:
    """One stream's part of a batch.

    Attributes:
        inputs: shape [N, ...].
        targets: for each task of the stream its target, first dimension N.
        present: the tasks of which at least one row here is labelled. Known on the host, so that
            nothing has to be read back from the device.
        rows: their numbers among the stream's training rows, int64 [N], on the host; None where
            they are none of these.
        lessons: what teachers say, by task, where there are any and they have been asked.
    """

    inputs: Tensor
    targets: dict[str, Tensor]
    present: tuple[str, ...]
    rows: Tensor | None = None
    lessons: dict[str, Lesson] = field(default_factory=dict)


Batch = dict[str, StreamBatch]
"""For each stream drawn in a step, its rows."""


@dataclass(frozen=True)
class StepInfo:
    """Where training stands, for the parts that draw at random or keep state for each task.

    Attributes:
        seed: the run's seed.
        epoch: counted from 0.
        step: optimizer steps done before this one, over the whole run.
        present: indices, in the order of the run's tasks, of the tasks with labels in this step.
        learning_rate: of the network in this step.
    """

    seed: int
    epoch: int
    step: int
    present: tuple[int, ...]
    learning_rate: float = 0.0


@dataclass(frozen=True)
class MetricValue:
    """A metric of one task, as an evaluation found it.

    Attributes:
        value: NaN where nothing could be measured.
        higher_is_better: its direction.
    """

    value: float
    higher_is_better: bool


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation at an epoch's end found on the validation split.

    Attributes:
        metrics: for each task of the run, in order, its metrics by name, ``loss`` among them.
        headlines: for each task the name of its headline metric.
        changes: for each task the mean relative change of its metrics against training it alone,
            in percent, positive where better; empty for methods that name no ``baseline``.
    """

    metrics: Mapping[str, Mapping[str, MetricValue]]
    headlines: Mapping[str, str]
    changes: Mapping[str, float]
