"""What the verbs on a finished run take in common from the command line."""

import argparse
from pathlib import Path

from mtlrun.errors import UserError
from mtlrun.inference.stored import read_run
from mtlrun.inference.trained import TrainedRun, rebuild
from mtlrun.tracking.folder import RESULT
from mtlrun.tracking.status import STATUS
from mtlrun.tracking.tables import COLUMNS

OWN_FILES = (*COLUMNS, RESULT, STATUS)
"""Files of a run that an output could be called as."""


def parser_of(verb: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with the run's folder and where its data is.

    Args:
        verb: for example ``evaluate``.
        description: what it does, in a sentence or two.
        examples: command lines, each with a comment.
    """
    parser = argparse.ArgumentParser(
        prog=f"mtlrun {verb}",
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the folder of a finished run")
    parser.add_argument(
        "--checkpoint",
        choices=("best", "last"),
        default="best",
        help="the selected epoch (default), or the last one",
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="where the run's data is now: dataset.root, or dataset.path of a table",
    )
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="another value of dataset.*, of backbone.path, or of engine.device, threads, amp, "
        "evaluation_batch_size, ...; may be given several times",
    )
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option ``--device``."""
    parser.add_argument(
        "--device",
        metavar="D",
        help="cpu, cuda or cuda:N; else the run's own, where there is one",
    )


def run_of(options: argparse.Namespace, device: str | None) -> TrainedRun:
    """The run that the options of :func:`parser_of` name, with its network.

    Args:
        options: as parsed.
        device: where it computes; None for the run's own, where there is one.

    Raises:
        UserError: the run, its data or its checkpoint cannot be used.
    """
    stored = read_run(options.run, options.set, options.data, device)
    return rebuild(stored, options.checkpoint)


def check_output(output: Path, folder: Path) -> None:
    """Refuse an output that would replace a file of the run.

    Args:
        output: the file to write.
        folder: of the run.

    Raises:
        UserError: it is the run's own.
    """
    if output.name in OWN_FILES and output.resolve().parent == folder.resolve():
        raise UserError(f"-o {output} is a file of the run itself. Name another one.")
