"""The whole network: an architecture and a head for each task."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mtlrun.models.architectures.base import Architecture
from mtlrun.models.backbones.base import Backbone
from mtlrun.models.heads.base import Head


class MultiTaskModel(nn.Module):
    """An architecture with one head a task.

    Args:
        architecture: maps inputs to features for each task.
        heads: for each task its head.

    Attributes:
        frozen: parts that stay as they are, see :meth:`freeze`.
        remarks: what the user should know of where its weights come from.
    """

    def __init__(self, architecture: Architecture, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.architecture = architecture
        self.tasks = tuple(heads)
        # Lists, not nn.ModuleDict: a task's name may hold a dot, a module's may not.
        self.heads = nn.ModuleList(heads.values())
        self.head_of: dict[str, nn.Module] = dict(zip(self.tasks, self.heads, strict=True))
        self.frozen: list[nn.Module] = []
        self.remarks: list[str] = []

    def forward(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """Predictions of ``tasks``.

        Args:
            inputs: for each stream that carries any of ``tasks`` its inputs, [N, ...].
            tasks: the tasks wanted.
        """
        features = self.architecture(inputs, tasks)
        return {task: self.head_of[task](features[task]) for task in tasks}

    def train(self, mode: bool = True) -> "MultiTaskModel":
        """Training or evaluation mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def freeze(self, parts: Sequence[str]) -> None:
        """Leave parts of the network as they are: weights, running statistics, no dropout.

        Args:
            parts: ``backbone`` (all copies), ``backbone.N`` (their stage N, counted from 1),
                ``architecture`` (with its backbones), ``heads`` or ``heads.TASK``.

        Raises:
            ValueError: there is no such part.
        """
        for part in parts:
            for module in self._part(part):
                module.requires_grad_(False)
                self.frozen.append(module)

    def _part(self, name: str) -> list[nn.Module]:
        """The modules that one name stands for."""
        kind, _, of = name.partition(".")
        if kind == "heads":
            if of and of not in self.head_of:
                raise ValueError(f"{name}: the tasks are {', '.join(self.tasks)}")
            return [self.head_of[of]] if of else list(self.heads)
        if name == "architecture":
            return [self.architecture]
        if kind != "backbone":
            raise ValueError(
                f"{name}: use backbone, backbone.N for a stage, architecture, heads or heads.TASK"
            )
        backbones = [part for part in self.architecture.modules() if isinstance(part, Backbone)]
        if not of:
            return list(backbones)
        stages = len(backbones[0].stages)
        if not (of.isdecimal() and 1 <= int(of) <= stages):
            raise ValueError(f"{name}: this backbone has the stages 1 to {stages}")
        return [backbone.stages[int(of) - 1] for backbone in backbones]

    def attach(self, adapters: Mapping[str, nn.Module]) -> None:
        """Put layers between the features and the heads of some tasks; once, before training."""
        for task, adapter in adapters.items():
            place = self.tasks.index(task)
            self.heads[place] = self.head_of[task] = nn.Sequential(adapter, self.heads[place])

    def own_parameters(self, task: str) -> list[nn.Parameter]:
        """Parameters that ``task`` alone trains: its head's, then the architecture's for it."""
        parameters = [*self.head_of[task].parameters(), *self.architecture.task_parameters(task)]
        return [parameter for parameter in parameters if parameter.requires_grad]

    def shared_parameters(self) -> list[nn.Parameter]:
        """Trainable parameters that more than one task trains."""
        return [p for p in self.architecture.shared_parameters() if p.requires_grad]

    def shared_layers(self) -> list[list[nn.Parameter]]:
        """The shared parameters in the groups of the modules that hold them, in their order."""
        owner = {
            id(parameter): number
            for number, module in enumerate(self.modules())
            for parameter in module._parameters.values()
            if parameter is not None
        }
        layers: list[list[nn.Parameter]] = []
        last = None
        for parameter in self.shared_parameters():
            if owner[id(parameter)] != last:
                layers.append([])
                last = owner[id(parameter)]
            layers[-1].append(parameter)
        return layers

    def independent_groups(self) -> list[tuple[str, ...]]:
        """Groups of tasks that share nothing, and so train as separate runs would.

        One group of all tasks where anything is shared, or auxiliary losses tie the networks.
        """
        if self.shared_parameters() or self.architecture.terms:
            return [self.tasks]
        return [(task,) for task in self.tasks]
