"""What looks at training steps beside the step itself: it measures, and changes nothing."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from mtlrun.engine.backward import StepFigures
from mtlrun.tracking.tracker import Tracker
from mtlrun.types import Batch, StepInfo


class Watcher(ABC):
    """Looks at steps between the backward pass and the update.

    What it finds stays on the device until :meth:`log`. Parameters, ``.grad``, buffers and all that
    training draws are, bit for bit, as if it had not been there.

    Attributes:
        name: of its state in the checkpoint.
    """

    name: str

    def begin(self, info: StepInfo) -> None:  # noqa: B027  # most have nothing to prepare
        """A step is going to be tried; :meth:`look` follows unless it is left out.

        Args:
            info: where training stands.
        """

    def wants_gradients(self, info: StepInfo) -> bool:
        """Whether a step that is going to be made is asked for :attr:`StepFigures.shared`.

        Args:
            info: where training stands.
        """
        del info
        return False

    @abstractmethod
    def look(self, batches: Sequence[Batch], info: StepInfo, figures: StepFigures) -> None:
        """Look at a step that is going to be made: ``.grad`` stands, and is not clipped yet.

        Args:
            batches: its micro-batches with labels.
            info: where training stands.
            figures: of its backward pass.
        """

    @abstractmethod
    def log(self, tracker: Tracker, step: int, epoch: int) -> None:
        """Read back and write what was seen since the last call; with each row of ``losses.csv``.

        Args:
            tracker: takes it.
            step: steps done.
            epoch: counted from 1.
        """

    def close_epoch(  # noqa: B027  # most have nothing to write
        self, tracker: Tracker, step: int, epoch: int
    ) -> None:
        """Write what there is once an epoch; after its last :meth:`log`."""

    def found(self) -> Mapping[str, Any]:
        """What ``result.json`` holds of it: for tasks by name; empty for nothing."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain data: so it does not matter when a checkpoint is written."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The reverse of :meth:`state_dict`."""
