"""Files of exported networks: writing them, and running what they hold."""

import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtlrun.errors import UserError

METADATA = "mtlrun.json"
"""Name of the description in a .pt2 file, and of the entry in an ONNX model's metadata."""


@dataclass(frozen=True)
class Names:
    """What a file calls what goes in and comes out.

    Attributes:
        inputs: of the tensors.
        outputs: likewise.
        axes: for each input the axes of any length, by number.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    axes: Sequence[Mapping[int, str]]


class Format(ABC):
    """A kind of file.

    Attributes:
        ending: of its files' names.
    """

    ending: str

    @abstractmethod
    def write(
        self,
        path: Path,
        program: torch.export.ExportedProgram,
        names: Names,
        description: Mapping[str, Any],
    ) -> None:
        """Write a program.

        Args:
            path: the file.
            program: what torch.export made.
            names: of what goes in and comes out.
            description: plain data to keep with it.

        Raises:
            UserError: a package is missing, or the program has an operator that cannot be written.
        """

    @abstractmethod
    def run(self, path: Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a file's network gives: predictions by task, on the CPU."""


class TorchExport(Format):
    """The archive of ``torch.export.save``."""

    ending = ".pt2"

    def write(
        self,
        path: Path,
        program: torch.export.ExportedProgram,
        names: Names,
        description: Mapping[str, Any],
    ) -> None:
        """See :meth:`Format.write`."""
        del names
        torch.export.save(program, path, extra_files={METADATA: json.dumps(description)})

    def run(self, path: Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Format.run`."""
        found: dict[str, Tensor] = torch.export.load(path).module()(*inputs.values())
        return found


class Onnx(Format):
    """An ONNX model, its weights inside."""

    ending = ".onnx"

    def write(
        self,
        path: Path,
        program: torch.export.ExportedProgram,
        names: Names,
        description: Mapping[str, Any],
    ) -> None:
        """See :meth:`Format.write`."""
        for package in ("onnx", "onnxscript", "onnxruntime"):
            _package(package)
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(names.inputs),
                output_names=list(names.outputs),
                dynamic_shapes={"inputs": tuple(dict(axes) for axes in names.axes)},
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise UserError(
                "This network cannot be written as ONNX: "
                f"{first_line(error)} --format torch_export may do."
            ) from error
        assert made is not None
        made.model.metadata_props[METADATA] = json.dumps(description)
        made.save(path, external_data=False)

    def run(self, path: Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`Format.run`."""
        runtime = _package("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        given = {name: value.numpy() for name, value in inputs.items()}
        try:
            session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            names = [output.name for output in session.get_outputs()]
            found = session.run(names, given)
        except _runtime_errors() as error:
            raise UserError(
                f"onnxruntime cannot run this network as ONNX: {first_line(error)} "
                "--format torch_export may do."
            ) from error
        return {name: torch.from_numpy(each) for name, each in zip(names, found, strict=True)}


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises; its errors have no base of their own."""
    held = vars(import_module("onnxruntime.capi.onnxruntime_pybind11_state")).values()
    return tuple(kind for kind in held if isinstance(kind, type) and issubclass(kind, Exception))


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"--format onnx needs the package {name}, which cannot be imported ({error}). Install "
            "it with pip install 'mtlrun[export]', or use --format torch_export."
        ) from error


UNFOLLOWED = (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError)
"""What torch.export raises: errors of its own, which are RuntimeErrors, and those of operators."""


def captured(
    module: nn.Module, example: tuple[Tensor, ...], dynamic: Sequence[Mapping[int, Any]]
) -> torch.export.ExportedProgram:
    """A module as a program of tensors.

    Args:
        module: in evaluation mode.
        example: its inputs.
        dynamic: for each input the axes of any length.

    Raises:
        UserError: its way depends on what is in the tensors, or on the number of rows.
    """
    shapes = {"inputs": tuple(dict(axes) for axes in dynamic)}
    try:
        return torch.export.export(module, example, dynamic_shapes=shapes)
    except UNFOLLOWED as error:
        first = error
    try:  # its other way, slower, goes through Python's own code, where len(tensor) is any number
        return torch.export.export(module, example, dynamic_shapes=shapes, strict=True)
    except UNFOLLOWED as error:
        raise UserError(
            "This network cannot be exported: torch.export could not follow its forward pass "
            f"({first_line(first)}) Where the number of rows is the reason, --batch N may do; "
            "mtlrun predict works with any network."
        ) from error


def runs(program: torch.export.ExportedProgram, inputs: tuple[Tensor, ...]) -> bool:
    """Whether a program takes inputs of these sizes."""
    try:
        program.module()(*inputs)
    except (AssertionError, RuntimeError):  # its own guards; operators
        return False
    return True


def first_line(error: BaseException) -> str:
    """The first line of a message that says something, as a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or ['no reason given'])[0][:300].rstrip('.')}."


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters say of themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


FORMATS: Mapping[str, Format] = {"torch_export": TorchExport(), "onnx": Onnx()}
