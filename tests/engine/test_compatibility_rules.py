"""Needs beyond one Gramian, and what is to become of weights: refusals, word by word."""

import re
from typing import Any

import pytest
from engine_toys import (
    WIDTH,
    Given,
    GivenDirection,
    branched_model,
    hps_model,
    mlp_model,
    toy_tasks,
)
from test_compatibility import Product, check, given, separate_model
from torch import nn

from mtlrun.engine.compatibility import check_rules, resolve_place
from mtlrun.errors import UserError
from mtlrun.weighting.base import Weighting
from mtlrun.weighting.equal import Equal


def refused(message: str) -> Any:
    return pytest.raises(UserError, match=f"^{re.escape(message)}$")


class Three(Given):
    batches = 3


class Ahead(Given):
    batches = 2
    lookahead = True


class Tracks(Given):
    tracks_rows = True


class Layered(Given):
    per_layer = True


class Watching(Equal):
    uses_evaluation = True


class Comparing(Watching):
    needs_baseline = True


NEEDS = {
    Three: "Three compares 3 batches in each step",
    Ahead: "Ahead looks at a second batch after a trial step",
    Tracks: "Tracks keeps a moving average of the task gradients",
    Layered: "Layered balances each layer by itself",
}


@pytest.mark.parametrize("place", ["last_layer", "representation"])
@pytest.mark.parametrize("kind", NEEDS)
def test_more_than_one_gramian_is_there_on_all_parameters_only(
    kind: type[Given], place: str
) -> None:
    assert resolve_place(kind([1.0]), "auto", 1) == "parameters"
    assert resolve_place(kind([1.0]), "parameters", 1) == "parameters"
    with refused(
        f"{NEEDS[kind]}, which is there for the gradients on all shared parameters only, and not "
        f"with gradients.at={place}. Use gradients.at=parameters."
    ):
        resolve_place(kind([1.0]), place, 1)


@pytest.mark.parametrize("kind", NEEDS)
def test_more_than_one_gramian_is_needed_in_each_step(kind: type[Given]) -> None:
    with refused(f"{NEEDS[kind]}, so each step needs the task gradients. Use gradients.every=1."):
        resolve_place(kind([1.0]), "auto", 2)


# -- smoothing and rescaling ----------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 1.5, float("nan")])
def test_smoothing_out_of_range(smoothing: float) -> None:
    with refused(f"gradients.smoothing={smoothing}: use 0 for none, or less than 1."):
        check_rules(given(), smoothing, "none")


@pytest.mark.parametrize("weighting", [given(), Tracks([1.0]), Equal()])
@pytest.mark.parametrize("rescale", ["none", "sum", "norm"])
def test_rules_for_one_weight_a_task(weighting: Weighting, rescale: str) -> None:
    check_rules(weighting, 0.9, rescale)


OTHERS = [Three([1.0]), Ahead([1.0]), Layered([1.0]), GivenDirection([1.0])]


@pytest.mark.parametrize("weighting", OTHERS)
def test_smoothing_needs_one_weight_a_task(weighting: Weighting) -> None:
    check_rules(weighting, 0, "none")
    with refused(
        "gradients.smoothing=0.5 averages one weight a task over steps, and "
        f"{type(weighting).__name__} has none, or more than one. Leave it out, or choose another "
        "method."
    ):
        check_rules(weighting, 0.5, "none")


@pytest.mark.parametrize("rescale", ["sum", "norm"])
@pytest.mark.parametrize("weighting", OTHERS)
def test_rescaling_needs_one_weight_a_task(weighting: Weighting, rescale: str) -> None:
    advice = "Leave it out."
    if isinstance(weighting, GivenDirection):
        if rescale == "norm":
            return check_rules(weighting, 0, rescale)
        advice = "Use gradients.rescale=norm, or leave it out."
    with refused(
        f"gradients.rescale={rescale} needs one weight a task, and {type(weighting).__name__} has "
        f"none, or more than one. {advice}"
    ):
        check_rules(weighting, 0, rescale)
    return None


def test_the_norm_of_shared_gradients_needs_shared_parameters() -> None:
    settings = {"accumulate": 1, "amp": "none", "rescale": "norm"}
    check(weighting=Equal(), place=None, settings=settings)
    model = separate_model()
    check(weighting=Equal(), place=None, model=model, settings={**settings, "rescale": "sum"})
    with refused(
        "gradients.rescale=norm compares gradients on shared parameters, and architecture=built "
        "shares none that are trained. Leave it out."
    ):
        check(weighting=Equal(), place=None, model=model, settings=settings)


# -- several batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Three, Ahead])
def test_several_batches_and_several_micro_batches(kind: type[Given]) -> None:
    check(weighting=kind([1.0]))
    with refused(
        "weighting=chosen compares the gradients of several batches in a step, and "
        "engine.accumulate=2 makes one batch of several. Use engine.accumulate=1."
    ):
        check(weighting=kind([1.0]), settings={"accumulate": 2, "amp": "none"})


# -- memory ---------------------------------------------------------------------------------------

SIZE = 4 * (5 * 8 + 8 + 8 * 6 + 6) / 2**30
"""GiB of one row of the toy network."""


def settings(rows: float, **others: Any) -> dict[str, Any]:
    """Room for so many rows, and half a row more."""
    return {"accumulate": 1, "amp": "none", "memory_gb": SIZE * (rows + 0.5), **others}


@pytest.mark.parametrize(
    ("weighting", "rows", "changes"),
    [
        (GivenDirection([1.0]), 3, {}),
        (Three([1.0]), 9, {}),
        (Ahead([1.0]), 6, {}),
        (Tracks([1.0]), 6, {}),
        (Layered([1.0]), 3, {}),
        (given(), 3, {"accumulate": 2}),
        (given(), 3, {"compile": True}),
        (Equal(), 3, {"accumulate": 2, "rescale": "norm"}),
        (Equal(), 3, {"compile": True, "rescale": "norm"}),
    ],
)
def test_rows_that_cannot_be_formed_in_parts(
    weighting: Weighting, rows: int, changes: dict[str, Any]
) -> None:
    place = None if isinstance(weighting, Equal) else "parameters"
    check(weighting=weighting, place=place, settings=settings(rows, **changes))
    short = settings(rows - 1, **changes)
    with refused(
        f"weighting=chosen needs all task gradients at once, {rows * SIZE:.3g} GiB, more than "
        f"gradients.memory_gb={short['memory_gb']:g}. Raise that, or choose a method (and "
        "engine.accumulate=1, engine.compile=false) whose gradients can be formed in parts."
    ):
        check(weighting=weighting, place=place, settings=short)


@pytest.mark.parametrize(
    ("weighting", "place", "changes"),
    [
        (given(), "parameters", {}),
        (given(), "last_layer", {}),
        (given(), "representation", {"compile": True}),
        (Equal(), None, {"rescale": "norm"}),
        (Equal(), None, {"accumulate": 2, "rescale": "sum"}),
        (Product(), None, {"compile": True}),
    ],
)
def test_rows_that_are_formed_in_parts_or_not_at_all(
    weighting: Weighting, place: Any, changes: dict[str, Any]
) -> None:
    check(weighting=weighting, place=place, settings=settings(0, **changes))


@pytest.mark.parametrize(("branched", "accumulate"), [(False, 2), (True, 1)])
def test_rows_of_all_parameters_behind_the_last_layer(branched: bool, accumulate: int) -> None:
    model, _ = branched_model() if branched else mlp_model()
    few, many = settings(1, accumulate=accumulate), settings(4, accumulate=accumulate)
    check(place="last_layer", model=model, settings=many)
    with pytest.raises(UserError, match=r"needs all task gradients at once"):
        check(place="last_layer", model=model, settings=few)


# -- what a method sees of the evaluation ---------------------------------------------------------


def test_methods_that_look_at_the_evaluation() -> None:
    check(weighting=Watching(), place=None)
    check(weighting=Equal(), place=None, select_on="test")
    with refused(
        "weighting=chosen trains by what it sees in the evaluation, and select_on=test would show "
        "it the test split. Use select_on=validation."
    ):
        check(weighting=Watching(), place=None, select_on="test")
    message = (
        "weighting=chosen compares each task with training it alone: name the folder of a "
        "finished architecture=single_task run in weighting.baseline=FOLDER."
    )
    with refused(message):
        check(weighting=Comparing(), place=None)
    named = Comparing()
    named.baseline = "somewhere"
    check(weighting=named, place=None)


def test_sparse_gradients_have_no_rows() -> None:
    trunk = nn.Sequential(nn.EmbeddingBag(9, WIDTH, sparse=True))
    model = hps_model(trunk, toy_tasks())
    with refused(
        "weighting=chosen needs task gradients in full, and the layer backbone.stages.0.0 gives "
        "sparse ones. Set sparse=False there, or choose a method that needs losses only (mtlrun "
        "list weighting)."
    ):
        check(model=model)
    check(model=model, weighting=Equal(), place=None)
