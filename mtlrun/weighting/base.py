"""The contract of loss balancing: what a method needs to see, and what it gives back.

A method says what it needs by the class that it extends, and how heads are trained by ``heads``.
The engine obeys and never asks for a method by name. State lives in parameters and buffers, so that
checkpoints are complete.

Only the tasks with labels in a step are shown: vectors and matrices have the T tasks of
``self.step.present``. A method that keeps state for each task picks and writes that state with
:meth:`Weighting.pick` and :meth:`Weighting.put`.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mtlrun.randomness import generator
from mtlrun.types import Evaluation, StepInfo, TaskInfo

Place = Literal["parameters", "representation", "last_layer"]

Compared = Literal["nothing", "losses", "gradients"]

Claim = Literal["non_conflicting", "stationary", "homogeneous", "invariant", "impartial"]
"""What a method may promise of its direction d at its default settings, in the first step:

* ``non_conflicting``: no loss rises to first order, g_t . d >= 0 for all t;
* ``stationary``: d is 0 where a combination of all gradients with positive weights is;
* ``homogeneous``: all losses times c make d times c;
* ``invariant``: all losses times c leave d as it is;
* ``impartial``: each loss times its own factor leaves d's orientation as it is.
"""


class Weighting(nn.Module):
    """Turns what a step shows about the tasks into the update of the shared parameters.

    A method's ``__init__`` takes its settings and, where it wants them, as keywords the runtime
    facts ``tasks`` (a sequence of :class:`~mtlrun.types.TaskInfo`), ``layers`` (number of layers
    with shared parameters) and ``channels`` (of the features that heads read).

    Attributes:
        heads: how heads (and other parameters of one task) are trained: ``"weighted"``, by the
            task's weight times its loss, or ``"unweighted"``, by the plain loss.
        step: where training stands; set by the engine before it shows a step.
        learning_rate: of the method's own trainable parameters; None means the network's. They are
            never decayed and never clipped.
        uses_evaluation: whether the method looks at validation metrics
            (:meth:`after_evaluation`). Refused where the test split selects.
        claims: what the method promises; the tests hold it to that.
        order_matters: whether the order of the tasks is part of the method.
        compares: what of the tasks of one step the method compares. Where a sampler gives steps
            with one task alone, a method that compares anything is refused: it would do nothing.
        batches: independent batches a step; more than 1 for a :class:`GramianWeighting` alone.
        needs_baseline: whether the method compares with training each task alone.
        baseline: folder of a finished single-task run that the changes which
            :meth:`after_evaluation` sees refer to; None for methods that see none.
    """

    heads: ClassVar[Literal["weighted", "unweighted"]]
    learning_rate: float | None = None
    uses_evaluation: ClassVar[bool] = False
    claims: ClassVar[frozenset[Claim]] = frozenset()
    order_matters: ClassVar[bool] = False
    compares: Compared
    batches: int = 1
    needs_baseline: ClassVar[bool] = False
    baseline: str | None = None
    step: StepInfo

    def __init__(self) -> None:  # a module's own takes anything, and so would hide a wrong setting
        super().__init__()

    def begin_step(self, step: StepInfo) -> None:
        """Say where training stands. The engine calls it before it shows a step."""
        self.__dict__["step"] = step  # a module's own way to set an attribute costs microseconds

    def generator(self, purpose: str) -> torch.Generator:
        """A CPU generator for this step's draws; the same each time it is asked for."""
        return generator(self.step.seed, f"weighting/{purpose}", self.step.epoch, self.step.step)

    def pick(self, state: Tensor) -> Tensor:
        """The entries of this step's tasks in ``state``, which has one for each task of the run."""
        if len(self.step.present) == len(state):
            return state
        return state[list(self.step.present)]

    def put(self, state: Tensor, values: Tensor) -> None:
        """Write the entries of this step's tasks into the buffer ``state``."""
        with torch.no_grad():
            if len(self.step.present) == len(state):
                state.copy_(values)
            else:
                state[list(self.step.present)] = values.to(state.dtype)

    def start_epoch(self, mean_losses: Sequence[Tensor]) -> None:
        """Called before each epoch.

        Args:
            mean_losses: for each finished epoch the tasks' mean training losses, [tasks of the
                run], float64 on the CPU; NaN for a task that had no label in it.
        """

    def after_step(self) -> None:
        """Called after the optimizer has moved the parameters, the method's own among them."""

    def after_evaluation(self, evaluation: Evaluation) -> None:
        """Called at each epoch's end where ``uses_evaluation``."""

    def remark(self) -> str | None:
        """A line about the method's own progress for the run's log, at each epoch's end."""
        return None

    def adapters(self) -> Mapping[str, nn.Module]:
        """Layers that the method puts between the features and the heads, for tasks by name.

        They become part of the network, for evaluation and its files, too. The method keeps them
        up to date: they have buffers and no trainable parameters.
        """
        return {}


class LossWeighting(Weighting):
    """Sees losses only: one plain backward pass through everything.

    Attributes:
        reevaluates: whether the method wants the losses of the same batch again after the step
            (:meth:`reevaluated`): a second forward pass, with the same dropout masks, that leaves
            running statistics alone.
        linear: whether :meth:`objective` is linear in the losses given the method's state. Only
            then may a step be accumulated over several micro-batches: the engine asks for the
            weights with losses of 1 beforehand, so such an objective changes no state.
    """

    heads: ClassVar[Literal["weighted", "unweighted"]] = "weighted"
    compares: Compared = "nothing"
    reevaluates: ClassVar[bool] = False
    linear: ClassVar[bool] = True

    @abstractmethod
    def objective(self, losses: list[Tensor]) -> Tensor:
        """The scalar to minimise. The weights that apply are its derivatives by the losses.

        Args:
            losses: the scalar loss of each of this step's tasks, part of the graph.
        """

    def reevaluated(self, losses: Tensor) -> None:
        """Take the losses of the same batch after the step, where ``reevaluates``.

        Args:
            losses: [T], detached.
        """


class GramianWeighting(Weighting):
    """Sees the inner products of the task gradients. Lives on the CPU, computes in float64.

    What a few methods need beyond the Gramian of one batch, they declare:

    * ``batches = k``: k independent batches a step. :meth:`weights` gets the Gramian of all their
      rows, [k T, k T], batch after batch (so off-diagonal blocks are inner products across
      batches), and losses [k T]; it gives a weight for each row, [k T]. Heads get the mean of
      their gradients over the batches with labels for the task.
    * ``lookahead``, with ``batches = 2``: the second batch's rows are taken after a plain gradient
      step on the first batch, theta - lr (w_1 g_1 + ... + w_T g_T), w by
      :meth:`lookahead_weights`, heads included in step, rows and Gramian. The parameters return to
      where they were; :meth:`weights` gives T weights, for the first batch's rows.
    * ``heads_in_rows``, with several batches and no ``lookahead``: rows go on into the heads (and
      other parameters of one task). They count in the Gramian, and get the gradients of the
      batches with the rows' own weights.
    * ``inner_steps = k``, likewise: after the rows, k plain gradient steps on the first batch's
      w_1 L_1 + ... + w_T L_T, heads included, of learning rate ``inner_learning_rate``, w by
      :meth:`lookahead_weights`. ``inner_losses`` are the first batch's losses beyond them. Then
      everything returns to where it was. Dropout masks are those of the rows.
    * ``tracks_rows``: the engine keeps a moving average y of the rows (zeros at first), by
      :meth:`tracking`. The Gramian is that of y, and the weights apply to y.
    * ``per_layer``: :meth:`weights` gets one Gramian for each layer with shared parameters,
      [L, T, T], and gives [L, T].
    * ``aligns_heads``: beside its loss's gradient each head gets that of -<delta_i, common> by its
      own parameters, where delta_i = dL_i/dz is the task's gradient on the features z that all
      tasks read, and common = sum_j ``alignment``_j delta_j is held constant. It is shortened to
      ``alignment_limits``_i times the length of the loss's gradient on that head.

    Attributes:
        place: where gradients are taken by default (``gradients.at=auto``).
        head_weights: set by :meth:`weights` where heads take other weights than the shared
            parameters, [T]; None otherwise.
        alignment: set by :meth:`weights` where ``aligns_heads``, [T]; None leaves the term out.
        alignment_limits: likewise.
        inner_losses: where ``inner_steps``, set by the engine before :meth:`weights`, [T], float64;
            0 for a task without labels in the first batch, not finite where steps diverge.
    """

    heads: ClassVar[Literal["weighted", "unweighted"]] = "unweighted"
    compares: Compared = "gradients"
    place: ClassVar[Place] = "parameters"
    lookahead: ClassVar[bool] = False
    tracks_rows: ClassVar[bool] = False
    per_layer: bool = False
    aligns_heads: ClassVar[bool] = False
    heads_in_rows: ClassVar[bool] = False
    inner_steps: int = 0
    inner_learning_rate: float = 0.0
    head_weights: Tensor | None = None
    alignment: Tensor | None = None
    alignment_limits: Tensor | None = None
    inner_losses: Tensor | None = None

    @abstractmethod
    def weights(self, gramian: Tensor, losses: Tensor) -> Tensor:
        """Task weights w: the shared parameters get the gradient w_1 g_1 + ... + w_T g_T.

        A method with trainable parameters fills their ``.grad`` here, in closed form.

        Args:
            gramian: inner products of the task gradients, [T, T], float64.
            losses: [T], float64.

        Returns:
            [T], float64.

        Raises:
            SolverError: there is no answer. The engine counts and logs it and takes the last
                weights that there were; methods handle no failure themselves.
        """

    def lookahead_weights(self) -> Tensor:
        """Weights of the steps that ``lookahead`` or ``inner_steps`` look beyond, [T], float64."""
        raise NotImplementedError

    def tracking(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        """How a method with ``tracks_rows`` averages them: y_i <- y_i + rate_i (scale_i g_i - y_i).

        Args:
            losses: [T], float64.

        Returns:
            scales and rates, [T] each.
        """
        raise NotImplementedError


class JacobianWeighting(Weighting):
    """Sees the task gradients themselves, where their inner products are not enough.

    Attributes:
        place: where gradients are taken: on the parameters, or on the representation, where P is
            the number of its elements in the batch.
        sees_representation: whether the method, at the representation, looks at it, too.
        representation: where ``sees_representation``, the features that all tasks read, detached,
            [N, channels], [N, channels, height, width] or, 0 at padding, [N, length, channels],
            during :meth:`direction`. Rows of the Jacobian have its elements in their order.
        task_weights: after :meth:`direction`, the weight of each task, [T], for a method that has
            them: they scale heads where these are ``"weighted"``, and are logged.
        is_weighted_sum: whether the direction is always ``task_weights`` @ Jacobian.
    """

    heads: ClassVar[Literal["weighted", "unweighted"]] = "unweighted"
    compares: Compared = "gradients"
    place: Place = "parameters"
    sees_representation: bool = False
    representation: Tensor | None = None
    task_weights: Tensor | None = None
    is_weighted_sum: ClassVar[bool] = False

    @abstractmethod
    def direction(self, jacobian: Tensor, losses: Tensor) -> Tensor:
        """The gradient that the shared parameters (or the representation) get, [P].

        A method with trainable parameters fills their ``.grad`` here (gradients are off; turn them
        on where autograd is to do it).

        Args:
            jacobian: task gradients, [T, P], float32. A buffer of the engine's: do not keep it.
            losses: [T], detached.
        """


__all__ = [
    "Claim",
    "Evaluation",
    "GramianWeighting",
    "JacobianWeighting",
    "LossWeighting",
    "Place",
    "StepInfo",
    "TaskInfo",
    "Weighting",
]
