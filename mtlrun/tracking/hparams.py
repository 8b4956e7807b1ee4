"""A run's row of TensorBoard's HParams page: its settings, headline figures and state.

The page reads three records of each run, and of each only the first that it has ever seen. Its
columns are those of an arbitrary run. So every run of a dataset names the same columns; whether it
has ended, and with which figures, stands in scalars, of which the last one counts; and the record
of a failure lies in a file of its own, which goes when the run is tried again.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from mtlrun.tracking.console import MANY

Setting = bool | int | float | str

FINISHED = "result/finished"
SECONDS = "result/seconds"
FIRST = ("weighting", "architecture", "changed", "seed")
"""Settings that the page shows before all others; it shows five at first."""


def result_columns(headlines: Mapping[str, str], delta_m: str, *, tracked: bool) -> dict[str, str]:
    """The figures that the page shows, five of them at first: what it calls each, by tag.

    Args:
        headlines: for each task its headline metric.
        delta_m: the tag of the change against single-task training.
        tracked: whether the run computes it.
    """
    tasks = {
        f"result/{task}/{metric}": f"{task} {metric} (test)" for task, metric in headlines.items()
    }
    shared = _shared_headline(headlines)
    mean = {f"result/mean_{shared}": f"mean {shared} (test)"} if shared else {}
    state = {FINISHED: "state: 1 finished, 0 not yet, -1 failed"}
    last = {delta_m: delta_m, SECONDS: "seconds"}
    if not tracked:
        last = dict(reversed(last.items()))
    return {**state, **mean, **tasks, **last}


def result_figures(result: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a finished run by tag; those that it does not have are left out."""
    headlines = {task: values["headline"] for task, values in result["tasks"].items()}
    test = {task: result["tasks"][task]["metrics"][m]["test"] for task, m in headlines.items()}
    figures = {
        f"result/{task}/{headlines[task]}": value
        for task, value in test.items()
        if value is not None
    }
    shared = _shared_headline(headlines)
    if shared and len(figures) == len(headlines):
        figures[f"result/mean_{shared}"] = fmean(figures.values())
    return {**figures, SECONDS: result["seconds"], FINISHED: 1.0}


def _shared_headline(headlines: Mapping[str, str]) -> str | None:
    """The headline metric of many tasks that all have the same one: their mean says something."""
    metrics = set(headlines.values())
    return metrics.pop() if len(metrics) == 1 and len(headlines) >= MANY else None


def experiment(settings: Mapping[str, Any], columns: Mapping[str, str]) -> Summary:
    """The record that names the page's columns."""
    hparams = [
        api_pb2.HParamInfo(name=name, type=_type_of(_plain(value)), differs=name in FIRST)
        for name, value in settings.items()
    ]
    metrics = [
        api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=shown)
        for tag, shown in columns.items()
    ]
    content = api_pb2.Experiment(hparam_infos=hparams, metric_infos=metrics)
    return _record(metadata.EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=content))


def session_start(settings: Mapping[str, Any]) -> Summary:
    """The record of a run's settings."""
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for name, value in settings.items():
        plain = _plain(value)
        if isinstance(plain, bool):
            info.hparams[name].bool_value = plain
        elif isinstance(plain, str):
            info.hparams[name].string_value = plain
        else:
            info.hparams[name].number_value = plain
    content = plugin_data_pb2.HParamsPluginData(session_start_info=info)
    return _record(metadata.SESSION_START_INFO_TAG, content)


def session_end(status: Literal["STATUS_SUCCESS", "STATUS_FAILURE"]) -> Summary:
    """The record of how a run ended."""
    info = plugin_data_pb2.SessionEndInfo(
        status=api_pb2.Status.Value(status), end_time_secs=time.time()
    )
    content = plugin_data_pb2.HParamsPluginData(session_end_info=info)
    return _record(metadata.SESSION_END_INFO_TAG, content)


def write_failure(folder: Path) -> None:
    """Write the record of a failure into its file, which TensorBoard reads after the others.

    Raises:
        OSError: the disk is full, for example.
    """
    second = int(time.time())
    name = f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}.failed"
    event = Event(wall_time=time.time(), summary=session_end("STATUS_FAILURE"))
    with (folder / name).open("wb") as file:
        RecordWriter(file).write(event.SerializeToString())


def _plain(value: object) -> Setting:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _type_of(value: Setting) -> Any:
    if isinstance(value, bool):
        return api_pb2.DATA_TYPE_BOOL
    return api_pb2.DATA_TYPE_STRING if isinstance(value, str) else api_pb2.DATA_TYPE_FLOAT64


def _record(tag: str, content: plugin_data_pb2.HParamsPluginData) -> Summary:
    described = metadata.create_summary_metadata(content)
    return Summary(value=[Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)])
