"""Combinations that make no sense are refused before the first batch, with what to change."""

from collections.abc import Mapping
from typing import Any

import torch

from mtlrun.engine.stopping import Stopping
from mtlrun.errors import UserError
from mtlrun.models.model import MultiTaskModel
from mtlrun.sampling.base import Sampler
from mtlrun.weighting.base import (
    GramianWeighting,
    JacobianWeighting,
    LossWeighting,
    Place,
    Weighting,
)


def resolve_place(weighting: Weighting, at: str, every: int) -> Place | None:
    """Where gradients are taken: the setting, or the method's own choice.

    Args:
        weighting: the method.
        at: ``gradients.at``.
        every: ``gradients.every``.

    Raises:
        UserError: a setting that the method would ignore or cannot follow.
    """
    name = type(weighting).__name__
    if isinstance(weighting, LossWeighting):
        if at != "auto" or every != 1:
            setting = f"gradients.at={at}" if at != "auto" else f"gradients.every={every}"
            raise UserError(
                f"{setting} has no effect: {name} balances by the losses and takes no task "
                f"gradients. Leave the setting out, or choose a method that needs gradients "
                "(mtlrun list weighting)."
            )
        return None
    assert isinstance(weighting, (GramianWeighting, JacobianWeighting))
    place: Place = weighting.place if at == "auto" else at  # type: ignore[assignment]  # checked word
    if isinstance(weighting, JacobianWeighting):
        if place != weighting.place:
            raise UserError(
                f"{name} combines task gradients entry by entry, those at the {weighting.place}, "
                f"so gradients.at={place} cannot serve it. Use gradients.at={weighting.place}."
            )
        if every != 1:
            raise UserError(
                f"gradients.every={every} reuses weights between refreshes, and {name} has no "
                "weights that could be reused. Use gradients.every=1."
            )
        return place
    more = _needs_beyond_one_gramian(weighting)
    if more and place != "parameters":
        raise UserError(
            f"{name} {more}, which is there for the gradients on all shared parameters only, and "
            f"not with gradients.at={place}. Use gradients.at=parameters."
        )
    if more and every != 1:
        raise UserError(
            f"{name} {more}, so each step needs the task gradients. Use gradients.every=1."
        )
    return place


def _needs_beyond_one_gramian(weighting: GramianWeighting) -> str | None:
    """What a method needs beside the Gramian of one batch, in words."""
    if weighting.lookahead:
        return "looks at a second batch after a trial step"
    if weighting.batches > 1:
        return f"compares {weighting.batches} batches in each step"
    if weighting.tracks_rows:
        return "keeps a moving average of the task gradients"
    if weighting.per_layer:
        return "balances each layer by itself"
    return None


def check_rules(weighting: Weighting, smoothing: float, rescale: str) -> None:
    """Check what is to become of the method's weights.

    Args:
        weighting: the method.
        smoothing: ``gradients.smoothing``.
        rescale: ``gradients.rescale``.

    Raises:
        UserError: a setting out of range, or one that the method cannot follow.
    """
    name = type(weighting).__name__
    if not 0 <= smoothing < 1:
        raise UserError(f"gradients.smoothing={smoothing}: use 0 for none, or less than 1.")
    without = isinstance(weighting, JacobianWeighting)
    single = isinstance(weighting, GramianWeighting) and not (
        weighting.per_layer or weighting.batches > 1
    )
    if smoothing and (without or not (single or isinstance(weighting, LossWeighting))):
        raise UserError(
            f"gradients.smoothing={smoothing} averages one weight a task over steps, and {name} "
            "has none, or more than one. Leave it out, or choose another method."
        )
    if rescale == "none" or single or isinstance(weighting, LossWeighting):
        return
    if not (without and rescale == "norm"):
        use = " Use gradients.rescale=norm, or leave it out." if without else " Leave it out."
        raise UserError(
            f"gradients.rescale={rescale} needs one weight a task, and {name} has none, or more "
            f"than one.{use}"
        )


def check_compatible(
    *,
    weighting: Weighting,
    weighting_name: str,
    architecture_name: str,
    sampler_name: str,
    model: MultiTaskModel,
    sampler: Sampler,
    place: Place | None,
    device: torch.device,
    settings: Mapping[str, Any],
    select_on: str = "validation",
    stopping: Stopping | None = None,
) -> None:
    """Check weighting x architecture x sampler x engine settings.

    Args:
        weighting: the method.
        weighting_name: as the user chose it.
        architecture_name: likewise.
        sampler_name: likewise.
        model: the network.
        sampler: the sampler.
        place: where gradients are taken, None for methods that see losses only.
        device: of the run.
        settings: of the engine, ``accumulate`` and ``amp``, and of the gradients, ``rescale`` and
            ``memory_gb``.
        select_on: the split that selects.
        stopping: what ends training before the last epoch.

    Raises:
        UserError: the first thing that does not fit, and what to change.
    """
    chosen = f"weighting={weighting_name}"
    architecture = model.architecture
    if place is not None:
        if not model.shared_parameters():
            raise UserError(
                f"{chosen} balances gradients on shared parameters, and architecture="
                f"{architecture_name} shares none that are trained. Use weighting=equal, or an "
                "architecture that shares a backbone, such as architecture=hps."
            )
        if place == "representation" and not architecture.one_representation:
            raise UserError(
                f"{chosen} with gradients.at=representation needs one tensor that all tasks read, "
                f"and architecture={architecture_name} on this dataset gives them several. Use "
                "gradients.at=parameters, or architecture=hps with a dataset of one stream."
            )
        if place == "last_layer" and not any(
            parameter.requires_grad for parameter in architecture.last_shared_layer()
        ):
            raise UserError(
                f"{chosen} with gradients.at=last_layer needs a trained layer of all tasks, and "
                f"architecture={architecture_name} has none. Use gradients.at=parameters."
            )
        if settings.get("every", 1) != 1 and not sampler.joint:
            raise UserError(
                f"gradients.every={settings['every']} reuses the weights of a step for the next "
                f"ones, and sampler={sampler_name} gives these other tasks. Use gradients.every=1, "
                "or sampler=joint."
            )
        if place == "representation" and settings["accumulate"] != 1:
            raise UserError(
                "gradients.at=representation looks at one batch's features, and "
                f"engine.accumulate={settings['accumulate']} spreads a step over several. Use "
                "engine.accumulate=1, or gradients.at=parameters."
            )
    _check_sampler(weighting, chosen, sampler, sampler_name, model, select_on)
    rescale = settings.get("rescale", "none")
    if rescale != "none" and sampler.fewest_tasks < 2 and len(model.tasks) > 1:
        raise UserError(
            f"gradients.rescale={rescale} gives a task that a step trains alone the weight 1, "
            f"whatever {chosen} says, and sampler={sampler_name} gives such steps. Leave it out, "
            "or use sampler=joint or sampler=task_subset."
        )
    if stopping is not None and stopping.revives and weighting.adapters():
        raise UserError(
            f"{chosen} keeps layers before the heads up to date by parameters of its own, and "
            "these stay behind when stopping.revive brings a task back with the head of its best "
            "epoch. Use stopping.revive=null, or another method."
        )
    _check_alignment(weighting, chosen, architecture_name, model, settings)
    if place is not None:
        _check_sparse(chosen, "a method that needs losses only (mtlrun list weighting)", model)
    _check_memory(weighting, chosen, model, settings, place)
    if settings.get("affinity", "none") != "none":
        _check_affinity(weighting, architecture_name, sampler_name, model, sampler, place, settings)
    _check_evaluation(weighting, chosen, select_on)
    if settings.get("rescale") == "norm" and place is None and not model.shared_parameters():
        raise UserError(
            f"gradients.rescale=norm compares gradients on shared parameters, and architecture="
            f"{architecture_name} shares none that are trained. Leave it out."
        )
    if settings["accumulate"] != 1 and weighting.batches > 1:
        raise UserError(
            f"{chosen} compares the gradients of several batches in a step, and engine.accumulate="
            f"{settings['accumulate']} makes one batch of several. Use engine.accumulate=1."
        )
    linear = getattr(weighting, "linear", True)
    if settings["accumulate"] != 1 and isinstance(weighting, LossWeighting) and not linear:
        raise UserError(
            f"{chosen} is not linear in the losses, so a step cannot be added up over "
            f"engine.accumulate={settings['accumulate']} micro-batches. Use engine.accumulate=1 "
            "and a larger batch_size."
        )
    if settings["amp"] == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(
            "engine.amp=bf16 needs a GPU that computes in bfloat16, and this one does not. Use "
            "engine.amp=none."
        )


def _check_sampler(
    weighting: Weighting,
    chosen: str,
    sampler: Sampler,
    sampler_name: str,
    model: MultiTaskModel,
    select_on: str,
) -> None:
    """Refuse methods that have nothing to compare, and samplers that have nothing to learn from."""
    compared = weighting.compares
    if compared != "nothing" and sampler.fewest_tasks < 2 and len(model.tasks) > 1:
        raise UserError(
            f"{chosen} compares the {compared} of tasks in one step, and sampler={sampler_name} "
            "gives steps with one task alone. Use sampler=joint, or sampler=task_subset on a "
            "dataset of one stream, or a method that weighs each task by itself, such as "
            "weighting=equal, uncertainty or dwa."
        )
    if sampler.uses_evaluation and select_on == "test":
        raise UserError(
            f"sampler={sampler_name} learns from what it sees in the evaluation, and "
            "select_on=test would show it the test split. Use select_on=validation."
        )
    if sampler.compares == "validation" and select_on == "test":
        raise UserError(
            f"sampler={sampler_name} learns from gradients on validation rows, and select_on=test "
            "leaves none. Use select_on=validation."
        )
    if sampler.compares != "nothing" and not model.shared_parameters():
        raise UserError(
            f"sampler={sampler_name} compares gradients on shared parameters, and this "
            "architecture shares none that are trained. Use architecture=hps, or another sampler."
        )


def _check_alignment(
    weighting: Weighting,
    chosen: str,
    architecture_name: str,
    model: MultiTaskModel,
    settings: Mapping[str, Any],
) -> None:
    """Refuse what stands in the way of aligning gradients through the heads."""
    if not (isinstance(weighting, GramianWeighting) and weighting.aligns_heads):
        return
    aligns = f"{chosen} aligns the task gradients on the features through the heads"
    if not model.architecture.one_representation:
        raise UserError(
            f"{aligns}, which needs one tensor that all tasks read, and architecture="
            f"{architecture_name} on this dataset gives them several. Use architecture=hps with a "
            "dataset of one stream, or another method."
        )
    for setting, value, plain in (
        ("engine.accumulate", settings["accumulate"], 1),
        ("gradients.every", settings.get("every", 1), 1),
        ("engine.compile", settings.get("compile", False), False),
    ):
        if value != plain:
            raise UserError(
                f"{aligns}, one batch in each step, twice differentiated. "
                f"{setting}={str(value).lower()} does not go with that: use {setting}="
                f"{str(plain).lower()}, or another method."
            )


def _check_sparse(chosen: str, instead: str, model: MultiTaskModel) -> None:
    """Refuse sparse gradients where task gradients are formed."""
    for name, module in model.architecture.named_modules():
        if getattr(module, "sparse", False) is True:
            raise UserError(
                f"{chosen} needs task gradients in full, and the layer {name} gives sparse ones. "
                f"Set sparse=False there, or choose {instead}."
            )


def _check_affinity(
    weighting: Weighting,
    architecture_name: str,
    sampler_name: str,
    model: MultiTaskModel,
    sampler: Sampler,
    place: Place | None,
    settings: Mapping[str, Any],
) -> None:
    """Refuse to measure where there is nothing to measure, or not enough room."""
    kind = settings["affinity"]
    asked = f"engine.affinity={kind} measures what a step for one task does for another, and"
    if len(model.tasks) < 2:
        raise UserError(f"{asked} this run has one task. Use engine.affinity=none, or more tasks.")
    if not model.shared_parameters():
        raise UserError(
            f"{asked} architecture={architecture_name} shares no parameters that are trained: it "
            "does nothing. Use engine.affinity=none, or an architecture that shares a backbone, "
            "such as architecture=hps."
        )
    if sampler.fewest_tasks < 2:
        raise UserError(
            f"{asked} sampler={sampler_name} gives steps with one task alone. Use sampler=joint, "
            "or sampler=task_subset on a dataset of one stream."
        )
    _check_sparse(f"engine.affinity={kind}", "engine.affinity=none", model)
    in_step = isinstance(weighting, GramianWeighting) and not _needs_beyond_one_gramian(weighting)
    own = place != "parameters" or settings.get("every", 1) != 1 or not in_step
    own = own or settings["amp"] != "none" or settings.get("compile", False)
    if not own or (kind == "tag" and settings["accumulate"] == 1):
        return
    size = sum(p.numel() * p.element_size() for p in model.shared_parameters())
    size *= len(model.tasks)
    budget = settings.get("memory_gb", float("inf")) * 2**30
    if size > budget:
        raise UserError(
            f"engine.affinity={kind} needs all task gradients at once here, {size / 2**30:.3g} "
            f"GiB, more than gradients.memory_gb={budget / 2**30:g}. Raise that, or use "
            "engine.affinity=tag with engine.accumulate=1, which forms them one by one."
        )


def _check_memory(
    weighting: Weighting,
    chosen: str,
    model: MultiTaskModel,
    settings: Mapping[str, Any],
    place: Place | None,
) -> None:
    """Refuse rows that exceed the budget where they cannot be formed in parts."""
    within = any([*model.architecture.task_parameters(task)] for task in model.tasks)
    if not (
        place == "parameters"
        or (place == "last_layer" and (settings["accumulate"] != 1 or within))
        or (place is None and settings.get("rescale") == "norm")
    ):
        return
    several = isinstance(weighting, GramianWeighting) and _needs_beyond_one_gramian(weighting)
    in_parts = (
        place != "last_layer"
        and not (several or isinstance(weighting, JacobianWeighting))
        and settings["accumulate"] == 1
        and not settings.get("compile")
    )
    rows = (
        weighting.batches
        * (2 if getattr(weighting, "tracks_rows", False) else 1)
        * len(model.tasks)
    )
    size = rows * sum(p.numel() * p.element_size() for p in model.shared_parameters()) / 2**30
    budget = settings.get("memory_gb", float("inf"))
    if size > budget and not in_parts:
        raise UserError(
            f"{chosen} needs all task gradients at once, {size:.3g} GiB, more than "
            f"gradients.memory_gb={budget:g}. Raise that, or choose a method (and "
            "engine.accumulate=1, engine.compile=false) whose gradients can be formed in parts."
        )


def _check_evaluation(weighting: Weighting, chosen: str, select_on: str) -> None:
    if weighting.uses_evaluation and select_on == "test":
        raise UserError(
            f"{chosen} trains by what it sees in the evaluation, and select_on=test would show it "
            "the test split. Use select_on=validation."
        )
    if weighting.needs_baseline and weighting.baseline is None:
        raise UserError(
            f"{chosen} compares each task with training it alone: name the folder of a finished "
            "architecture=single_task run in weighting.baseline=FOLDER."
        )
