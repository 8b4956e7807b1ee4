"""Runs that are killed, stopped, or run out of disk, and go on as if nothing had happened."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Command, Moment, assert_same_run, mtlrun, only_run

SHORT = (
    "epochs=3",
    "batch_size=4",
    "engine.log_every=7",
    "engine.checkpoint_minutes=0.0005",
    "tracking.tensorboard=false",
)
"""Three epochs of some tenths of a second, with several checkpoints in each."""

Undisturbed = Callable[..., Path]
Condition = Callable[[], bool]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The folder of a run that nothing happened to; each is done once."""
    done: dict[tuple[str, ...], Path] = {}

    def run(*arguments: str) -> Path:
        if arguments not in done:
            directory = tmp_path_factory.mktemp("undisturbed")
            mtlrun(directory, *arguments).finish()
            done[arguments] = only_run(directory)
        return done[arguments]

    return run


def before_the_first_checkpoint(moment: Moment) -> Condition:
    return moment.row("losses.csv", "1")


def within_an_epoch(moment: Moment) -> Condition:
    """Rows are written that the newest checkpoint does not know."""
    return moment.then_grows(moment.replaced("checkpoints/last.pt", times=2), "losses.csv")


def the_best_is_written(moment: Moment) -> Condition:
    return moment.replaced("checkpoints/best.pt")


def while_a_checkpoint_is_written(moment: Moment) -> Condition:
    begun = moment.replaced("checkpoints/last.pt")
    return lambda: begun() and moment.exists("checkpoints/fresh.tmp")()


def in_the_last_epoch(moment: Moment) -> Condition:
    return moment.row("metrics.csv", "3")


MOMENTS = (
    before_the_first_checkpoint,
    within_an_epoch,
    while_a_checkpoint_is_written,
    the_best_is_written,
    in_the_last_epoch,
)


def kill(
    directory: Path, moments: tuple[Callable[[Moment], Condition], ...], *arguments: str
) -> None:
    """Start the same command again and again, and kill it at each of these moments."""
    for moment in moments:
        condition = moment(Moment(directory))
        mtlrun(directory, *arguments).until(condition).kill()
        assert not (only_run(directory) / "result.json").exists()


@pytest.mark.parametrize(
    "settings",
    [
        ("weighting=equal",),
        ("weighting=gradnorm",),
        ("weighting=mgda",),
        ("weighting=dwa",),
        ("weighting=pcgrad", "gradients.every=3"),
        ("weighting=equal", "engine.workers=2"),
    ],
    ids=",".join,
)
def test_killed_again_and_again(
    settings: tuple[str, ...], tmp_path: Path, undisturbed: Undisturbed
) -> None:
    kill(tmp_path, MOMENTS, *SHORT, *settings)
    mtlrun(tmp_path, *SHORT, *settings).finish()
    without_workers = [setting for setting in settings if "workers" not in setting]
    assert_same_run(only_run(tmp_path), undisturbed(*SHORT, *without_workers))
