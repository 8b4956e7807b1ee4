"""Combinations that make no sense are refused before the first batch, with what to change."""

from collections.abc import Mapping

import torch

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
        if place != "parameters":
            raise UserError(
                f"{name} combines the task gradients on all shared parameters entry by entry, so "
                f"gradients.at={place} cannot serve it. Use gradients.at=parameters."
            )
        if every != 1:
            raise UserError(
                f"gradients.every={every} reuses weights between refreshes, and {name} has no "
                "weights. Use gradients.every=1."
            )
    return place


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
    settings: Mapping[str, object],
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
        settings: ``accumulate`` and ``amp`` of the engine.

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
        if not sampler.joint:
            raise UserError(
                f"{chosen} compares the gradients of tasks in one step, and sampler={sampler_name} "
                "draws some of them only. Use sampler=joint, or a method that needs losses only "
                "(mtlrun list weighting)."
            )
        if place == "representation" and settings["accumulate"] != 1:
            raise UserError(
                "gradients.at=representation looks at one batch's features, and "
                f"engine.accumulate={settings['accumulate']} spreads a step over several. Use "
                "engine.accumulate=1, or gradients.at=parameters."
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
