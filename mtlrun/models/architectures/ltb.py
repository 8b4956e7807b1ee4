"""Learning to Branch: a tree of stages in which each part picks its parent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone
from mtlrun.models.backbones.base import Backbone, Kept
from mtlrun.models.layers import only_tokens, token_mask
from mtlrun.models.sharing.depth import behind_others, drop_unread, last_common_layer
from mtlrun.models.sharing.reading import Reading
from mtlrun.models.sharing.searching import (
    FIXED,
    WARMUP,
    Searching,
    gumbel_noise,
    gumbel_softmax,
    one_hot,
)
from mtlrun.types import Layout, Structure


@dataclass(frozen=True)
class _Branch:
    """A pass down to one copy of one stage.

    Attributes:
        features: its output.
        kept: what the stages on the way left for later ones.
        read: outputs, by stage, on the way that heads read.
    """

    features: Tensor
    kept: Kept
    read: Mapping[int, Tensor]


class LTB(Searching):
    """Learning to Branch (Guo, Lee and Ulbricht, ICML 2020).

    Each stage of the backbone is there once for each task. Each copy of a stage picks one copy of
    the stage before as its parent, whose output it reads, and each task picks the copy of the last
    stage that its head reads: so a tree grows, from one network for all tasks to one for each. All
    copies of the first stage read the inputs. A run has three phases:

    1. warm-up: each child reads the mean of all possible parents;
    2. branching: a Gumbel-softmax draws each child's parent, and its logits are trained along with
       the weights; all copies are computed. The temperature is ``temperature`` / sqrt(epoch + 1),
       with epochs counted from 0 over the whole run. Evaluation takes each child's likeliest
       parent;
    3. the tree found is fixed, and its weights train on. Copies that no task needs are not
       computed any more; they stay in the checkpoint.

    The authors published no code. In LibMTL, whose temperature and warm-up are the defaults here,
    the warm-up reads the sum of the parents, there is no third phase (``fixed_epochs=0``), and task
    t is bound to copy t of the last stage (``leaves=own``), so that this is never shared.

    With a backbone whose stages leave pooling indices or maps for later ones (segnet, unet), these
    come down the same branches; in the warm-up a copy's indices are its own.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks. All have the same tree.
        epochs: of the run.
        reads: for each task the stages that its head reads, those on its branch.
        warmup_epochs: of the first phase; None is a hundredth of the run, rounded up.
        fixed_epochs: of the third, at the end of the run; None is three tenths of it.
        temperature: None is a twentieth of the run's epochs, and at least 1.
        hard: whether a child in training reads one parent, with a straight-through gradient, or
            parents weighed by relaxed draws.
        leaves: ``picked``: each task picks a copy of the last stage; ``own``: it has one.
        rate: learning rate of the logits as a multiple of the network's; LibMTL's is 1.

    Raises:
        ValueError: a setting is wrong, or the backbone has nothing to pick.
    """

    temperature: Tensor

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        epochs: int,
        reads: Mapping[str, Sequence[int]] | None = None,
        warmup_epochs: int | None = None,
        fixed_epochs: int | None = None,
        temperature: float | None = None,
        hard: bool = True,
        leaves: str = "picked",
        rate: float = 10.0,
    ) -> None:
        if leaves not in ("picked", "own"):
            raise ValueError(f"leaves={leaves!r} is none of picked, own")
        if rate <= 0 or (temperature is not None and temperature <= 0):
            raise ValueError(f"temperature={temperature} and rate={rate} must be above 0")
        first, last = _phases(epochs, warmup_epochs, fixed_epochs)
        tasks = [task for members in streams.values() for task in members]
        backbones = [make_backbone(copy) for copy in range(len(tasks))]
        reading = Reading(backbones[0], reads)
        depth = max(drop_unread(backbone, reading, tasks) for backbone in backbones)
        levels = depth - (1 if leaves == "own" else 0)
        if levels == 0:
            raise ValueError(
                "architecture=ltb with leaves=own: heads read one stage of backbone "
                f"{type(backbones[0]).__name__}, each task has its own copy of it, and there is "
                "nothing to pick. Use "
                "leaves=picked, a backbone with more stages, or architecture=single_task"
            )
        found = torch.zeros(levels, len(tasks), dtype=torch.long)
        super().__init__(streams=streams, search_from=first, fixed_from=last, found=found)
        self.backbones = nn.ModuleList(backbones)
        self.copies: list[Backbone] = backbones
        self.reading, self._last = reading, depth - 1
        self._read = {stage for task in tasks for stage in self.reading.of(task)}
        self._own_leaves = leaves == "own"
        square = (len(tasks), len(tasks))  # children, parents
        self.logits = nn.ParameterList(
            nn.Parameter(torch.zeros(square)) for _ in range(levels - 1)
        )  # of the copies of stages 2, 3, ...
        # The last choice is each task's own: one row for each, as no other task trains it
        self.own_logits = nn.ParameterList(nn.Parameter(torch.zeros(len(tasks))) for _ in tasks)
        start = max(1.0, epochs / 20) if temperature is None else temperature
        self.register_buffer("temperature", torch.tensor(start), persistent=False)
        self._start, self._hard, self._rate = start, hard, rate

    # -- choices -----------------------------------------------------------------------------------

    def _all_logits(self) -> list[Tensor]:
        """Of each level, [T children, T parents]."""
        return [*self.logits, torch.stack(list(self.own_logits))]

    def picked(self) -> Tensor:
        """The likeliest parent of each child at each level, [levels, T]."""
        return torch.stack([logits.argmax(1) for logits in self._all_logits()])

    def adopt(self) -> None:
        """See :meth:`Searching.adopt`."""
        self._parents: list[list[int]] = self.found.tolist()

    def _weights(self) -> list[Sequence[Tensor]]:
        """For each level and child what each parent counts, [T]."""
        if self._phase == WARMUP:
            uniform = torch.full_like(self.own_logits[0], 1 / len(self.own_logits)).detach()
            return [[uniform] * len(self.own_logits)] * len(self.found)
        if not self.training:
            return [one_hot(logits).unbind() for logits in self._all_logits()]
        children = len(self.own_logits)
        noise = gumbel_noise(len(self.found), children, children, device=self.found.device)
        *inner, last = noise.unbind()
        return [
            *(
                self._drawn(mine, its).unbind()
                for mine, its in zip(self.logits, inner, strict=True)
            ),
            [self._drawn(row, its) for row, its in zip(self.own_logits, last, strict=True)],
        ]

    def _drawn(self, logits: Tensor, noise: Tensor) -> Tensor:
        return gumbel_softmax(logits, noise, self.temperature, self._hard)

    # -- passes ------------------------------------------------------------------------------------

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        weights = [] if self._phase == FIXED else self._weights()
        found: dict[str, Tensor] = {}
        for stream, here in self.by_stream(tasks).items():
            if self._phase == FIXED:
                found |= self._along_tree(inputs[stream], here)
            else:
                found |= self._along_all(inputs[stream], here, weights)
        return {task: found[task] for task in tasks}

    def _along_all(
        self, inputs: Tensor, tasks: Sequence[str], weights: Sequence[Sequence[Tensor]]
    ) -> dict[str, Tensor]:
        """What the heads read, with every child's parents mixed.

        Args:
            inputs: of one stream.
            tasks: of that.
            weights: see :meth:`_weights`.
        """
        places = [place for place, task in enumerate(self.stream_of) if task in tasks]
        everyone = list(range(len(self.copies)))
        last = self._last
        branches = {copy: self._grown(copy, 0, _Branch(inputs, {}, {})) for copy in everyone}
        for stage in range(1, last + 1):
            wanted = places if self._own_leaves and stage == last else everyone
            level = weights[stage - 1]
            branches = {
                copy: self._grown(copy, stage, self._mixed(branches, level[copy], copy, stage - 1))
                for copy in wanted
            }
        if not self._own_leaves:
            branches = {
                place: self._mixed(branches, weights[-1][place], place, last) for place in places
            }
        return self._heads_read(tasks, lambda place: branches[place])

    def _along_tree(self, inputs: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """What the heads read, on the branches of the fixed tree that they need."""
        last = self._last
        grown: dict[tuple[int, int], _Branch] = {}

        def branch(stage: int, copy: int) -> _Branch:
            if (stage, copy) not in grown:
                root = _Branch(inputs, {}, {})
                parent = branch(stage - 1, self._parents[stage - 1][copy]) if stage else root
                grown[stage, copy] = self._grown(copy, stage, parent)
            return grown[stage, copy]

        return self._heads_read(tasks, lambda place: branch(last, self._leaf(place)))

    def _leaf(self, place: int) -> int:
        """The copy of the last stage that a task of the fixed tree reads."""
        return place if self._own_leaves else self._parents[-1][place]

    def _heads_read(
        self, tasks: Sequence[str], branch: Callable[[int], _Branch]
    ) -> dict[str, Tensor]:
        """What each task's head reads.

        Args:
            tasks: those wanted.
            branch: the one of a task, by its place.
        """
        places = {task: place for place, task in enumerate(self.stream_of)}
        found: dict[str, Tensor] = {}
        for task in tasks:
            its = branch(places[task])
            stages = range(self._last + 1)
            found[task] = self.reading(task, [its.read.get(n, its.features) for n in stages])
        return found

    def _grown(self, copy: int, stage: int, parent: _Branch) -> _Branch:
        """A branch, longer by a copy of the next stage."""
        kept = dict(parent.kept)  # other children of this parent add to their own
        features = self.copies[copy].step(stage, parent.features, kept)
        read = {**parent.read, stage: features} if stage in self._read else parent.read
        return _Branch(features, kept, read)

    def _mixed(
        self, parents: Mapping[int, _Branch], weights: Tensor, child: int, stage: int
    ) -> _Branch:
        """One branch from several.

        Args:
            parents: by copy.
            weights: of each, [T].
            child: the copy that reads it.
            stage: that the parents end in.
        """
        shares = weights.unbind()
        layouts = self.copies[0].layouts
        branches = list(parents.values())

        def mix(values: Sequence[Tensor], layout: Layout | None) -> Tensor:
            if not values[0].is_floating_point():
                return self._one_of(values, weights, child)
            terms = [share * value for share, value in zip(shares, values, strict=True)]
            total = sum(terms[1:], terms[0])
            if layout == "sequence":
                return only_tokens(total, token_mask(values[0]))
            return total

        features = mix([branch.features for branch in branches], layouts[stage])
        kept = {
            key: mix([branch.kept[key] for branch in branches], None) for key in branches[0].kept
        }
        read = {
            n: mix([branch.read[n] for branch in branches], layouts[n]) for n in branches[0].read
        }
        return _Branch(features, kept, read)

    def _one_of(self, values: Sequence[Tensor], weights: Tensor, child: int) -> Tensor:
        """Whole numbers cannot be mixed: those of the heaviest parent, in the warm-up its own."""
        if self._phase == WARMUP:
            return values[child]
        heaviest = weights.detach().argmax().reshape(1)
        return torch.stack(list(values)).index_select(0, heaviest).squeeze(0)

    # -- parameters --------------------------------------------------------------------------------

    def shared_parameters(self) -> list[nn.Parameter]:
        """All stages and the logits of their copies, but for stages of one task: with
        ``leaves=own`` the last, and those that its head alone reads."""
        own = {id(p) for task in self.stream_of for p in self.task_parameters(task)}
        own |= {id(p) for leaf in self._leaves() for p in leaf}
        return [p for p in self.parameters() if id(p) not in own]

    def _leaves(self) -> list[list[nn.Parameter]]:
        """The parameters of each task's own copy of the last stage; none where it has none."""
        leaves = [list(copy.stages[self._last].parameters()) for copy in self.copies]
        return leaves if self._own_leaves else [[] for _ in leaves]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """The logits of the task's choice, and the stages that it alone reads."""
        tasks = list(self.stream_of)
        place, leaves = tasks.index(task), self._leaves()
        leaf = leaves[place] if self.reading.deepest([task]) == self._last else []
        known = {id(p) for each in leaves for p in each}
        behind = [behind_others(copy, self.reading, task, tasks) for copy in self.copies]
        alone = [p for stages in behind for p in stages if id(p) not in known]
        return [self.own_logits[place], *leaf, *alone]

    def last_shared_layer(self) -> list[nn.Parameter]:
        """The last layer, in all copies, that all tasks may share."""
        tasks = list(self.stream_of)
        common = min(self.reading.deepest([task]) for task in tasks)
        if not self._own_leaves or common < self._last:
            layers = [last_common_layer(copy, self.reading, tasks) for copy in self.copies]
            return [weight for layer in layers for weight in layer]
        matrices = [
            [p for p in copy.stages[: self._last].parameters() if p.dim() >= 2]
            for copy in self.copies
        ]
        return [weight for mine in matrices for weight in mine[-1:]]

    def learning_rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """The logits' is ``rate`` times the network's."""
        return [([*self.logits, *self.own_logits], self._rate)]

    # -- over a run --------------------------------------------------------------------------------

    def start_step(self, epoch: int, step: int) -> None:
        """See :meth:`Architecture.start_step`."""
        super().start_step(epoch, step)
        self.temperature.fill_(self._start / sqrt(epoch + 1))

    def structure(self) -> list[Structure]:
        """For each level the probability of each parent, and the tree: 1 at the parent picked."""
        tasks = tuple(self.stream_of)
        copies = tuple(f"copy {number + 1}" for number in range(len(tasks)))
        picks = self.found if self._phase == FIXED else self.picked()
        tables = []
        for level, (logits, parents) in enumerate(zip(self._all_logits(), picks, strict=True)):
            last = level == len(self.logits)
            name = "tasks" if last and not self._own_leaves else f"stage_{level + 2}"
            rows = tasks if last else copies
            tree = nn.functional.one_hot(parents, len(tasks)).float()
            chances = logits.detach().softmax(1)
            tables.append(Structure(f"ltb/probability/{name}", rows, copies, chances))
            tables.append(Structure(f"ltb/tree/{name}", rows, copies, tree))
        return tables


def _phases(epochs: int, warmup: int | None, fixed: int | None) -> tuple[int, int]:
    """The first epoch of the branching phase, and of that behind it."""
    if warmup is None:
        warmup = max(0, min(ceil(epochs / 100), epochs - 1 - (fixed or 0)))
    if fixed is None:
        fixed = max(0, min(round(0.3 * epochs), epochs - warmup - 1))
    if warmup < 0 or fixed < 0 or warmup + fixed >= epochs:
        raise ValueError(
            f"warmup_epochs={warmup} and fixed_epochs={fixed} (0 or more each) must leave one or "
            f"more of the run's epochs={epochs} for branching: use smaller ones, or null for a "
            "hundredth and three tenths"
        )
    return warmup, epochs - fixed
