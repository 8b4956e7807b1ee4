"""AdaShare: which blocks of one backbone each task runs through."""

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mtlrun.models.architectures.base import MakeBackbone, Pass
from mtlrun.models.checks import expect_choice
from mtlrun.models.residual import Gate
from mtlrun.models.sharing.depth import behind_others, drop_unread, last_common_layer
from mtlrun.models.sharing.policies import (
    TABLE,
    check_numbers,
    curriculum_of,
    phases_of,
    read_policy,
)
from mtlrun.models.sharing.reading import Reading
from mtlrun.models.sharing.searching import (
    FIXED,
    SEARCH,
    WARMUP,
    Searching,
    gumbel_noise,
    gumbel_softmax,
)
from mtlrun.models.sharing.skipping import SkippingTrunk, example
from mtlrun.types import InputKind, Structure

LOWEST = 0.01
"""The temperature at which its decay ends: at 0 there would be no choice, and no gradient."""


class AdaShare(Searching):
    """AdaShare: learning what to share (Sun, Panda, Feris and Saenko, NeurIPS 2020).

    All tasks use one backbone, and each learns which of its blocks to run through and which to
    skip. Blocks are the residual ones (a skipped one is its shortcut), and beyond the paper stages
    of any other backbone that give the shape that they take, except for the first.

    A run has three phases:

    1. warm-up: all tasks run through all blocks, as with hard sharing;
    2. policy: for each task and block a Gumbel-softmax draws whether to keep it.
       As many steps as there are tasks train the weights with drawn policies, then as many the
       policies alone, in turn: so each task has its part in both, also where they take turns.
       Evaluation keeps blocks of probability 1/2 or more;
    3. the policies found are fixed, and the weights train on. Skipped blocks are not computed.

    The authors train weights and policies on two parts of the training data, and turn about after
    each pass; here both see all of it. They then draw eight policies, train a new network with each
    and report the best. To train a new network with the policy found by a run, name its folder in
    ``policy``.

    Two terms act in the policy's steps. With a the probability of keeping, of L blocks numbered
    l = 1 ... L, ``sparsity`` is the sum of log a over tasks and blocks, ``sharing`` the sum over
    pairs of tasks and blocks of (L - l) / L |a - a'|: blocks at the input are to be shared more.
    Published code has other ones: ``formulas=code`` is for each task the mean of -log(1 - a) over
    its blocks, and l / L on the first logits' differences, which shares blocks at the output more.
    Blocks that the curriculum has not come to are left out of ``sparsity``. In steps without all
    tasks, the terms are those of the tasks present, and of the pairs that one of them is in. The
    published weights of ``sparsity`` and ``sharing`` go with the code's formulas: 0.001 and 0.05
    (NYUv2 with three tasks; the defaults), 0.05 and 0.05 (NYUv2 with two), 0.01 and 0.1
    (Cityscapes), 0.001 and 0.005 (Taskonomy). Too much ``sparsity``, and all tasks skip everything.

    The published code draws relaxed policies (``hard=false``), which here weigh a block's branch.
    In networks with batch normalisation each task's pass through a block counts in its statistics.

    Args:
        make_backbone: see :data:`~mtlrun.models.architectures.base.MakeBackbone`.
        streams: for each stream its tasks.
        input_kind: of the inputs.
        input_shape: likewise.
        epochs: of the run.
        reads: for each task the stages that its head reads.
        warmup_epochs: of the first phase; None is a tenth of the run.
        policy_epochs: of the second; None is four tenths.
        policy: the folder of a finished run with this architecture and backbone, or its
            ``structure.csv``: the phases 1 and 2 are left out, and its policies are used.
        temperature: of the Gumbel-softmax at first.
        decay: what it is multiplied by after each ``decay_steps`` steps of the policy, until 0.01.
        decay_steps: see there; the authors' 100 on Taskonomy.
        hard: whether drawn policies are 0 or 1, with a straight-through gradient.
        curriculum: whether the policy begins with the last blocks, and the others are kept.
        curriculum_epochs: until all blocks are learned; None is half of ``policy_epochs``.
        sparsity: weight of that term; 0 leaves it out.
        sharing: likewise.
        formulas: of the terms, ``paper`` or ``code``.
        rate: learning rate of the policies as a multiple of the network's; the authors': 0.01
            against 0.001.

    Raises:
        ValueError: the backbone has nothing to skip, a setting is wrong, or ``policy`` does not
            fit.
    """

    temperature: Tensor
    learned: Tensor

    def __init__(
        self,
        *,
        make_backbone: MakeBackbone,
        streams: Mapping[str, Sequence[str]],
        input_kind: InputKind,
        input_shape: Sequence[int],
        epochs: int,
        reads: Mapping[str, Sequence[int]] | None = None,
        warmup_epochs: int | None = None,
        policy_epochs: int | None = None,
        policy: str | None = None,
        temperature: float = 5.0,
        decay: float = 0.965,
        decay_steps: int = 100,
        hard: bool = True,
        curriculum: bool = True,
        curriculum_epochs: int | None = None,
        sparsity: float = 0.001,
        sharing: float = 0.05,
        formulas: str = "paper",
        rate: float = 10.0,
    ) -> None:
        check_numbers(temperature, decay, decay_steps, sparsity, sharing, rate)
        expect_choice("formulas", formulas, ("paper", "code"))
        backbone, tasks = make_backbone(0), tuple(t for its in streams.values() for t in its)
        reading = Reading(backbone, reads)
        depth = drop_unread(backbone, reading, tasks)
        trunk = SkippingTrunk(backbone, reading, input_kind, input_shape, depth)
        names = trunk.names
        if not names:
            raise ValueError(
                "architecture=adashare skips residual blocks, and stages that give the shape that "
                f"they take, and backbone {type(backbone).__name__} has neither. Use "
                "backbone=resnet18, transformer or vit, two or more layers of equal width "
                "(backbone=mlp), or architecture=hps"
            )
        if policy is not None:
            if (warmup_epochs, policy_epochs, curriculum_epochs) != (None, None, None):
                raise ValueError(
                    f"policy={policy} fixes the policies from the first step on: leave out "
                    "warmup_epochs, policy_epochs and curriculum_epochs, or use policy=null"
                )
            first, last, found = 0, 0, read_policy(Path(policy), tasks, names)
        else:
            first, last = phases_of(epochs, warmup_epochs, policy_epochs)
            found = torch.ones(len(tasks), len(names))
        super().__init__(streams=streams, search_from=first, fixed_from=last, found=found)
        self.backbone, self.reading, self.trunk = backbone, trunk.reading, trunk
        self.logits = nn.ParameterList(
            nn.Parameter(torch.zeros(len(names), 2)) for _ in (tasks if policy is None else ())
        )  # of each task; columns: keep, skip
        self.register_buffer("temperature", torch.tensor(temperature), persistent=False)
        self.register_buffer("learned", torch.ones(len(names)).bool(), persistent=False)
        self._decay = temperature, decay, decay_steps
        self._hard, self._formulas, self._rate = hard, formulas, rate
        self._curriculum = curriculum_of(curriculum, curriculum_epochs, last - first)
        self._policy_step = False
        if policy is None:
            weights = {"sparsity": sparsity, "sharing": sharing if len(tasks) > 1 else 0.0}
            self.terms = {name: weight for name, weight in weights.items() if weight > 0}
        else:
            self._phase = FIXED
            self.phase.fill_(FIXED)
            self.adopt()
        self._owners = self._owners_of(example(input_kind, input_shape))

    def _owners_of(self, inputs: Tensor) -> list[tuple[str, ...]]:
        """For each parameter of the backbone the tasks that reach it in this run.

        Those that the policies of another run leave without any are frozen.
        """
        tasks, parameters = tuple(self.stream_of), list(self.backbone.parameters())
        if self.logits:
            alone = {
                id(p): (task,)
                for task in tasks
                for p in behind_others(self.backbone, self.reading, task, tasks)
            }
            return [alone.get(id(p), tasks) for p in parameters]
        looked_at = copy.deepcopy(self.trunk)
        looked_at.backbone.eval()
        wanted = list(looked_at.backbone.parameters())
        trained = [number for number, p in enumerate(wanted) if p.requires_grad]
        reached: list[list[str]] = [[] for _ in parameters]
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            features = looked_at(inputs, {task: self._plan[task] for task in tasks})
            for task in tasks:
                found = torch.autograd.grad(
                    features[task].sum(),
                    [wanted[number] for number in trained],
                    retain_graph=True,
                    allow_unused=True,
                )
                for number, gradient in zip(trained, found, strict=True):
                    if gradient is not None:
                        reached[number].append(task)
        for parameter, who in zip(parameters, reached, strict=True):
            parameter.requires_grad_(bool(who))
        return [tuple(who) for who in reached]

    # -- policies ----------------------------------------------------------------------------------

    def probabilities(self) -> Tensor:
        """Of keeping each block, [T, L]: the learned ones; those found, once they are fixed."""
        if self._phase == FIXED:
            return self.found
        return torch.stack([logits.softmax(1)[:, 0] for logits in self.logits])

    def picked(self) -> Tensor:
        """See :meth:`probabilities`."""
        return self.probabilities()

    def adopt(self) -> None:
        """See :meth:`Searching.adopt`."""
        kept = (self.found >= 0.5).tolist()
        self._plan: dict[str, list[bool]] = dict(zip(self.stream_of, kept, strict=True))

    def _gates(self, tasks: Sequence[str]) -> Mapping[str, Sequence[Gate]]:
        """For each task what its pass is to do with each block."""
        if self._phase == WARMUP:
            return dict.fromkeys(tasks, [True] * len(self.trunk.names))
        if self._phase == FIXED:
            return self._plan
        places = {task: place for place, task in enumerate(self.stream_of)}
        if not self.training:
            kept = (self.probabilities() >= 0.5).float()
            return {task: kept[places[task]].unbind() for task in tasks}
        # Drawn for all tasks, so that no task's draws hang on which others are in the step
        noise = gumbel_noise(*self.found.shape, 2, device=self.found.device)
        return {task: self._drawn(places[task], noise).unbind() for task in tasks}

    def _drawn(self, place: int, noise: Tensor) -> Tensor:
        """A policy of one task, [L]: 1 where a block is kept."""
        logits = self.logits[place] if self._policy_step else self.logits[place].detach()
        kept = gumbel_softmax(logits, noise[place], self.temperature, self._hard)[:, 0]
        return torch.where(self.learned, kept, 1.0)

    def features(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Architecture.features`."""
        gates = self._gates(tasks)
        found: dict[str, Tensor] = {}
        for stream, here in self.by_stream(tasks).items():
            found |= self.trunk(inputs[stream], {task: gates[task] for task in here})
        return {task: found[task] for task in tasks}

    # -- terms -------------------------------------------------------------------------------------

    def with_terms(self, inputs: Mapping[str, Tensor], tasks: Sequence[str]) -> Pass:
        """See :meth:`Architecture.with_terms`; the terms are given where the policy is trained."""
        features = self.features(inputs, tasks)
        if self._phase != SEARCH or not self._policy_step:
            return Pass(features)
        present = [task in tasks for task in self.stream_of]
        makers = {"sparsity": self._sparsity, "sharing": self._sharing}
        return Pass(features, {name: makers[name](present) for name in self.terms})

    def _sparsity(self, present: Sequence[bool]) -> Tensor:
        """How much the tasks present keep, of the blocks that are being learned."""
        logits = torch.stack(
            [mine for mine, here in zip(self.logits, present, strict=True) if here]
        )
        keep, skip = logits.log_softmax(2).unbind(2)  # [T, L] each
        learned = self.learned.to(skip.dtype)
        if self._formulas == "paper":
            return (keep * learned).sum()
        return -(skip * learned).sum() / learned.sum()

    def _sharing(self, present: Sequence[bool]) -> Tensor:
        """How much pairs of tasks differ that have one present."""
        logits = torch.stack(list(self.logits))  # [T, L, 2]
        blocks = logits.shape[1]
        numbers = torch.arange(1, blocks + 1, device=logits.device)
        if self._formulas == "paper":
            values, weights = logits.softmax(2)[..., 0], (blocks - numbers) / blocks
        else:
            values, weights = logits[..., 0], numbers / blocks
        # Each task present against those that are not, and those behind it
        against = [
            (mine, [its for other, its in enumerate(values) if other > place or not present[other]])
            for place, mine in enumerate(values)
            if present[place]
        ]
        sums = [
            ((mine - torch.stack(rest)).abs() * weights).sum() for mine, rest in against if rest
        ]
        return torch.stack(sums).sum()

    # -- parameters --------------------------------------------------------------------------------

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those of the backbone that several heads read; with ``policy`` that several keep."""
        owned = zip(self.backbone.parameters(), self._owners, strict=True)
        if self.logits and len(self.stream_of) == 1:
            return [parameter for parameter, _ in owned]
        return [parameter for parameter, who in owned if len(who) > 1]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """The task's policy, and what it alone reads or, with ``policy``, keeps."""
        policy = [self.logits[list(self.stream_of).index(task)]] if self.logits else []
        if self.logits and len(self.stream_of) == 1:
            return policy
        owned = zip(self.backbone.parameters(), self._owners, strict=True)
        return [*policy, *(parameter for parameter, who in owned if who == (task,))]

    def last_shared_layer(self) -> list[nn.Parameter]:
        """The backbone's last layer, where all tasks keep it."""
        owners = dict(zip(map(id, self.backbone.parameters()), self._owners, strict=True))
        last = last_common_layer(self.backbone, self.reading, list(self.stream_of))
        return [p for p in last if owners[id(p)] == tuple(self.stream_of)]

    def learning_rates(self) -> list[tuple[list[nn.Parameter], float]]:
        """The policies' is ``rate`` times the network's."""
        return [(list(self.logits), self._rate)] if self.logits else []

    # -- over a run --------------------------------------------------------------------------------

    def start_step(self, epoch: int, step: int) -> None:
        """See :meth:`Architecture.start_step`."""
        super().start_step(epoch, step)
        if self._phase != SEARCH:
            return
        self._policy_step = step // len(self.stream_of) % 2 == 1
        start, decay, every = self._decay
        reached = start * decay ** (self.searched(step) // 2 // every)
        self.temperature.fill_(max(reached, min(start, LOWEST)))
        blocks = len(self.trunk.names)
        # Rounded up: all are learned in the curriculum's last epoch
        learned = -(-(epoch - self.search_from + 1) * blocks // self._curriculum)
        self.learned[: max(0, blocks - learned)] = False
        self.learned[max(0, blocks - learned) :] = True

    def only(self) -> Collection[nn.Parameter] | None:
        """The policies, in their steps."""
        return list(self.logits) if self._phase == SEARCH and self._policy_step else None

    def structure(self) -> list[Structure]:
        """For each task the probability that it keeps each block."""
        values = self.probabilities().detach()
        return [Structure(TABLE, tuple(self.stream_of), self.trunk.names, values)]
