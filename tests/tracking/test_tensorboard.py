"""Event files, read back with TensorBoard's own reader."""

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from mtlrun.errors import Interrupted
from mtlrun.tracking.console import Silent
from mtlrun.tracking.hparams import result_columns, result_figures
from mtlrun.tracking.summary import markdown_summary
from mtlrun.tracking.tables import ALWAYS
from mtlrun.tracking.tensorboard import EventWriter
from mtlrun.tracking.tracker import Description, Tracker

TASKS = ("depth", "segmentation")
DESCRIPTION = Description(
    config="seed: 0\noptimizer:\n  lr: 0.1\n",
    settings={"weighting": "gradnorm", "lr": 0.1, "seed": 3, "nothing": None, "fused": True},
    headlines={"depth": "rmse", "segmentation": "miou"},
)


def result_of(headlines: dict[str, str]) -> dict[str, Any]:
    """What a finished run's ``result.json`` holds: the n-th task reaches n tenths on the test."""
    tasks = {
        task: {
            "headline": metric,
            "metrics": {
                metric: {
                    "higher_is_better": False,
                    "test": number / 10,
                    "final": 0.75,
                    "best": 0.5,
                    "best_epoch": 2,
                }
            },
        }
        for number, (task, metric) in enumerate(headlines.items(), start=1)
    }
    return {
        "dataset": "nyuv2",
        "method": "gradnorm,weighting.alpha=0.5",
        "seed": 3,
        "weighting": "gradnorm",
        "architecture": "hps",
        "backbone": "segnet",
        "epochs": 4,
        "steps": 80,
        "parameters": {"total": 12345, "shared": 9000},
        "seconds": 12.5,
        "device": "cpu",
        "select_on": "validation",
        "selected_epoch": 2,
        "tasks": tasks,
    }


def losses(step: int) -> list[dict[str, Any]]:
    return [
        {
            "step": step,
            "epoch": 1,
            "task": task,
            "loss": 2.0 / step,
            "loss_ratio": 1.0 / step,
            "weight": 0.5,
            "grad_norm": float("nan") if task == "depth" else 3.0,
        }
        for task in TASKS
    ]


def conflicts(step: int) -> list[dict[str, Any]]:
    return [{"step": step, "task_a": TASKS[0], "task_b": TASKS[1], "cosine": -0.25}]


def tracker_of(folder: Path, *, tensorboard: bool = True) -> Tracker:
    return Tracker(
        folder, TASKS, tensorboard=tensorboard, display=Silent(), description=DESCRIPTION
    )


@pytest.fixture
def tracker(tmp_path: Path) -> Iterator[Tracker]:
    opened = tracker_of(tmp_path)
    opened.open(None, 0)
    yield opened
    opened.close()


def events(folder: Path) -> EventAccumulator:
    """Everything in the run's folder; subfolders would be further runs."""
    assert [path.parent for path in folder.rglob("events.out.tfevents.*")].count(folder) >= 1
    assert not [path for path in folder.iterdir() if path.is_dir()]
    return EventAccumulator(str(folder)).Reload()


def age(folder: Path) -> None:
    """Make event files a minute older: TensorBoard reads a folder's files in their names' order."""
    for path in folder.glob("events.out.tfevents.*"):
        second = path.name.split(".")[3]
        path.rename(path.with_name(path.name.replace(second, f"{int(second) - 60}", 1)))


def curve(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, pytest.approx(event.value)) for event in found.Scalars(tag)]


def test_the_tags_of_a_run(tracker: Tracker, tmp_path: Path) -> None:
    tracker.steps(losses(1), conflicts(1), step=1, epoch=1)
    tracker.steps(losses(20), conflicts(20), step=20, epoch=1)
    tracker.metrics(1, 20, "train", {"depth": {"loss": 0.5, "sampling_probability": 0.25}})
    tracker.metrics(1, 20, "val", {"depth": {"loss": 0.6, "rmse": 0.7}})
    tracker.metrics(1, 20, "test", {"segmentation": {"miou": 0.8}})
    tracker.scalar("val/delta_m", -1.5, 20)
    tracker.close()
    found = events(tmp_path)
    assert set(found.Tags()["scalars"]) == {
        *(
            f"train/{figure}/{task}"
            for figure in ("loss", "loss_ratio", "weight")
            for task in TASKS
        ),
        "train/grad_norm/segmentation",  # that of depth is NaN, which would hide the curve
        "train/cosine/depth-segmentation",
        "train/sampling_probability/depth",
        "val/depth/loss",
        "val/depth/rmse",
        "test/segmentation/miou",
        "val/delta_m",
        "result/finished",
    }
    assert curve(found, "train/loss/depth") == [(1, 2.0), (20, 0.1)]
    assert curve(found, "train/loss_ratio/segmentation") == [(1, 1.0), (20, 0.05)]
    assert curve(found, "train/weight/depth") == [(1, 0.5), (20, 0.5)]
    assert curve(found, "train/grad_norm/segmentation") == [(1, 3.0), (20, 3.0)]
    assert curve(found, "train/cosine/depth-segmentation") == [(1, -0.25), (20, -0.25)]
    assert curve(found, "train/sampling_probability/depth") == [(20, 0.25)]
    assert curve(found, "val/depth/rmse") == [(20, 0.7)]
    assert curve(found, "val/delta_m") == [(20, -1.5)]


def test_resuming_hides_what_a_killed_run_wrote_later(tmp_path: Path) -> None:
    first = tracker_of(tmp_path)
    first.open(None, 0)
    for step in (10, 20):
        first.steps(losses(step), conflicts(step), step=step, epoch=1)
    state = first.state_dict()
    for step in (30, 40):
        first.steps(losses(step), [], step=step, epoch=2)
    first.metrics(2, 40, "val", {"depth": {"rmse": 0.7}})
    first.close()
    assert [step for step, _ in curve(events(tmp_path), "train/loss/depth")] == [10, 20, 30, 40]
    age(tmp_path)

    second = tracker_of(tmp_path)
    second.open(state, 20)
    second.steps(losses(25), [], step=25, epoch=2)
    second.close()
    found = events(tmp_path)
    assert curve(found, "train/loss/depth") == [(10, 0.2), (20, 0.1), (25, 0.08)]
    assert "val/depth/rmse" not in found.Tags()["scalars"] or not found.Scalars("val/depth/rmse")
    assert len(found.Tensors("custom_scalars__config__")) == 1  # written once
    rows = (tmp_path / "losses.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", *["10"] * 2, *["20"] * 2, *["25"] * 2]


def test_a_run_that_begins_again_forgets_the_old_events(tmp_path: Path) -> None:
    killed = tracker_of(tmp_path)
    killed.open(None, 0)
    killed.steps(losses(30), [], step=30, epoch=1)
    killed.close()
    again = tracker_of(tmp_path)
    again.open(None, 0)
    again.steps(losses(5), [], step=5, epoch=1)
    again.close()
    assert [step for step, _ in curve(events(tmp_path), "train/loss/depth")] == [5]
    assert len(list(tmp_path.glob("events*"))) == 1


def hparams_of(found: EventAccumulator) -> dict[str, Any]:
    """The records of the HParams page, by kind."""
    data = {}
    for tag, metadata in found.summary_metadata.items():
        if tag.startswith("_hparams_/"):
            content = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
            kind = content.WhichOneof("data")
            data[kind] = getattr(content, kind)
    return data


def test_a_row_of_the_hparams_page_is_in_the_run_itself(tracker: Tracker, tmp_path: Path) -> None:
    tracker.close()
    found = events(tmp_path)
    data = hparams_of(found)
    assert set(data) == {"experiment", "session_start_info"}  # no end: it is under way
    started = data["session_start_info"].hparams
    assert started["weighting"].string_value == "gradnorm"
    assert started["lr"].number_value == 0.1
    assert started["seed"].number_value == 3
    assert started["fused"].bool_value
    assert started["nothing"].string_value == "None"
    columns = data["experiment"].hparam_infos
    assert [column.name for column in columns] == list(DESCRIPTION.settings)
    assert [column.name for column in columns if column.differs] == ["weighting", "seed"]
    assert [info.name.tag for info in data["experiment"].metric_infos] == [
        "result/finished",
        "result/depth/rmse",
        "result/segmentation/miou",
        "result/seconds",
        "val/delta_m",
    ]
    assert curve(found, "result/finished") == [(0, 0)]


def test_a_finished_run_shows_its_figures_and_that_it_is_finished(tmp_path: Path) -> None:
    with tracker_of(tmp_path) as tracker:
        tracker.open(None, 0)
        tracker.finished(result_of(dict(DESCRIPTION.headlines)), 80)
    found = events(tmp_path)
    assert hparams_of(found)["session_end_info"].status == api_pb2.STATUS_SUCCESS
    assert curve(found, "result/finished") == [(0, 0), (80, 1)]
    assert curve(found, "result/depth/rmse") == [(80, 0.1)]
    assert curve(found, "result/segmentation/miou") == [(80, 0.2)]
    assert curve(found, "result/seconds") == [(80, 12.5)]
    (event,) = found.Tensors("summary/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert "- method: **gradnorm,weighting.alpha=0.5**" in text
    assert "- parameters: **12,345 (9,000 shared)**" in text
    assert "| depth | rmse ↓ | 0.75 | 0.5 | 2 | 0.1 |" in text.splitlines()
    assert text.endswith("test: the model of epoch 2, the best on val.\n")


def test_many_tasks_with_one_headline_have_a_mean() -> None:
    headlines = dict.fromkeys(["a", "b", "c", "d"], "accuracy")
    figures = result_figures(result_of(headlines))
    assert figures["result/mean_accuracy"] == pytest.approx(0.25)  # of .1, .2, .3, .4
    part = result_of(headlines)
    part["tasks"]["d"]["metrics"]["accuracy"]["test"] = None
    assert "result/mean_accuracy" not in result_figures(part)  # a mean of others
    columns = result_columns(headlines, "val/delta_m", tracked=True)
    assert list(columns)[:2] == ["result/finished", "result/mean_accuracy"]
    assert list(columns)[-2:] == ["val/delta_m", "result/seconds"]
    assert "result/mean_rmse" not in result_columns({"a": "rmse"}, "val/delta_m", tracked=True)


def test_the_summary_says_what_stands_out() -> None:
    result = result_of(dict.fromkeys(["a", "b", "c"], "accuracy"))
    result["tasks"]["a"] |= {
        "loss": {"loss_ratio_at_half": 0.97},
        "noise_scale": 2000.0,
        "noise_drowns": False,
        "rows_per_step": 64.0,
        "conflicts": {"b": 0.8, "c": 0.74},
    }
    nan = float("nan")
    drowned = {"noise_scale": nan, "noise_drowns": True, "noise_steps": 12, "rows_per_step": 64.0}
    result["tasks"]["b"] |= {"loss": {"loss_ratio_at_half": nan}, "conflicts": None, **drowned}
    plain = {"noise_scale": 640.0, "noise_drowns": False, "rows_per_step": 64.0}
    result["tasks"]["c"] |= {"loss": {"loss_ratio_at_half": 0.95}, "conflicts": {}, **plain}
    assert markdown_summary(result).split("What stands out:\n\n")[1].splitlines() == [
        "- **a**: hardly learnt by half of the run: its loss stood at 97% of the first one; its "
        "gradient is mostly noise: the noise scale is 2000 rows, a step has 64; larger batches "
        "would help; in conflict with b in 80% of the steps",
        "- **b**: noise drowns its gradient: in the 12 steps looked at its rows had no direction "
        "in common",
    ]


def test_names_cannot_break_the_summary() -> None:
    text = markdown_summary(result_of({"<b>a|b</b>\n*c*": "rmse"}))
    (row,) = [line for line in text.splitlines() if "rmse" in line]
    assert row.startswith(r"| &lt;b>a\|b&lt;/b> \*c\* | rmse ↓ |")


def run_until(folder: Path, error: BaseException) -> None:
    """A run that stops with an error at step 20."""
    with tracker_of(folder) as tracker:
        tracker.open(None, 0)
        tracker.steps(losses(20), [], step=20, epoch=1)
        raise error


def test_a_failed_run_says_so_until_it_is_tried_again(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the end"):
        run_until(tmp_path, ValueError("the end"))
    found = events(tmp_path)
    assert hparams_of(found)["session_end_info"].status == api_pb2.STATUS_FAILURE
    assert curve(found, "result/finished") == [(0, 0), (20, -1)]
    age(tmp_path)
    with tracker_of(tmp_path) as tracker:
        sizes = {name: (tmp_path / name).stat().st_size for name in ALWAYS}
        tracker.open({"sizes": sizes}, 20)
        assert "session_end_info" not in hparams_of(events(tmp_path))
        tracker.finished(result_of(dict(DESCRIPTION.headlines)), 80)
    found = events(tmp_path)
    assert hparams_of(found)["session_end_info"].status == api_pb2.STATUS_SUCCESS
    assert found.Scalars("result/finished")[-1].value == 1


def test_a_failure_is_forgotten_without_tensorboard_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the end"):
        run_until(tmp_path, ValueError("the end"))
    sizes = {name: (tmp_path / name).stat().st_size for name in ALWAYS}
    with tracker_of(tmp_path, tensorboard=False) as tracker:
        tracker.open({"sizes": sizes}, 20)
    assert "session_end_info" not in hparams_of(events(tmp_path))


def test_an_interrupted_run_has_not_ended(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_until(tmp_path, Interrupted("stopped"))
    found = events(tmp_path)
    assert "session_end_info" not in hparams_of(found)
    assert curve(found, "result/finished") == [(0, 0)]


def test_the_layout_draws_the_tasks_together(tracker: Tracker, tmp_path: Path) -> None:
    for step in (1, 20):
        tracker.steps(losses(step), conflicts(step), step=step, epoch=1)
    tracker.metrics(1, 20, "val", {"depth": {"loss": 0.6, "rmse": 0.7}})
    tracker.scalar("train/conflict_share/depth-segmentation", 0.25, 20)
    tracker.scalar("train/noise_scale/depth", 300.0, 20)
    tracker.close()
    found = events(tmp_path)
    (event,) = found.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    (category,) = layout.category
    charts = {
        chart.title: {
            tag
            for pattern in chart.multiline.tag
            for tag in found.Tags()["scalars"]
            if re.fullmatch(pattern, tag)
        }
        for chart in category.chart
    }
    assert next(iter(charts)) == "loss ratio: now / first"
    assert charts == {
        "loss ratio: now / first": {f"train/loss_ratio/{task}" for task in TASKS},
        "weight": {f"train/weight/{task}" for task in TASKS},
        "training loss": {f"train/loss/{task}" for task in TASKS},
        "validation loss": {"val/depth/loss"},
        "gradient norm": {"train/grad_norm/segmentation"},
        "cosine between task gradients": {"train/cosine/depth-segmentation"},
        "share of steps in conflict": {"train/conflict_share/depth-segmentation"},
        "gradient noise scale: rows": {"train/noise_scale/depth"},
    }


def test_the_configuration_is_there_as_text(tracker: Tracker, tmp_path: Path) -> None:
    tracker.close()
    (event,) = events(tmp_path).Tensors("config/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert text.splitlines() == ["    seed: 0", "    optimizer:", "      lr: 0.1"]


def test_pictures_stand_side_by_side(tracker: Tracker, tmp_path: Path) -> None:
    assert tracker.wants_images
    pictures = torch.zeros(2, 2, 3, 4, 5, dtype=torch.uint8)
    pictures[0, 0, 0] = 255  # red, upper left
    pictures[0, 1, 2] = 100  # dark blue, upper right; the lower row is black
    tracker.images("val/depth", pictures, 7)
    tracker.close()
    (event,) = events(tmp_path).Images("val/depth")
    assert event.step == 7
    image = np.asarray(Image.open(BytesIO(event.encoded_image_string)))
    assert image.shape == (8, 10, 3)
    assert (image[:4, :5] == [255, 0, 0]).all()
    assert (image[:4, 5:] == [0, 0, 100]).all()
    assert (image[4:] == 0).all()


def test_without_tensorboard_the_tables_are_written_all_the_same(tmp_path: Path) -> None:
    tracker = tracker_of(tmp_path, tensorboard=False)
    tracker.open(None, 0)
    tracker.steps(losses(1), conflicts(1), step=1, epoch=1)
    tracker.metrics(1, 1, "val", {"depth": {"rmse": 0.5}})
    tracker.scalar("val/delta_m", 0.5, 1)
    tracker.images("val/depth", torch.zeros(1, 1, 3, 2, 2, dtype=torch.uint8), 1)
    assert not tracker.wants_images
    tracker.close()
    assert not list(tmp_path.glob("events*"))
    assert (tmp_path / "metrics.csv").read_text().splitlines() == [
        "epoch,step,split,task,metric,value",
        "1,1,val,depth,rmse,0.5",
    ]
    assert (tmp_path / "losses.csv").read_text().splitlines()[1] == "1,1,depth,2,1,0.5,"
    assert (tmp_path / "conflicts.csv").read_text().splitlines()[1] == "1,depth,segmentation,-0.25"


def test_the_first_step_of_a_resumed_run_is_the_one_after_the_checkpoint(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, None)
    writer.scalar("x", 1.0, 20)
    writer.scalar("x", 9.0, 21)
    writer.close()
    age(tmp_path)
    writer = EventWriter(tmp_path, 20)
    writer.scalar("x", 2.0, 21)
    writer.close()
    assert curve(events(tmp_path), "x") == [(20, 1.0), (21, 2.0)]
