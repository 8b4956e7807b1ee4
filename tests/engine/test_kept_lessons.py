"""What teachers say of all training rows: kept where it is always the same, and fits."""

from collections.abc import Mapping, Sequence

import torch
from engine_toys import NAMES, WIDTH, Toy, mlp_model, numbered, toy_batch
from test_distillation import teacher
from torch import Tensor

from mtlrun.data.base import TensorSource
from mtlrun.engine.distillation import Distillation, Teaching
from mtlrun.engine.kept_lessons import keep_lessons, repeatable
from mtlrun.engine.loader import Placement


def dataset_of(rows: int, noise: bool = False) -> Toy:
    targets: Mapping[str, Tensor] = {}
    batch = toy_batch(rows=rows)["rows"]
    targets = {**batch.targets, "b": torch.where(torch.arange(rows) % 2 == 0, torch.nan, 1.0)}
    source = TensorSource(batch.inputs, targets)
    return Toy({"train": {"rows": source}}, {"rows": NAMES}, noise)


def kept(made: Distillation, dataset: Toy, size: int = 4) -> list[str]:
    notes: list[str] = []
    place = Placement(torch.device("cpu"))
    keep_lessons(made, dataset, place, batch_size=size, note=notes.append)
    return notes


def distillation(memory: float, tasks: Sequence[str] = ("a", "b")) -> Distillation:
    model, own = mlp_model()
    teaching = Teaching(temperature=2, features=1, memory=memory)
    return Distillation([teacher(1, tasks), teacher(2, ["b"])], own, model, teaching, 0)


BYTES = 11 * 4 * ((3 + WIDTH) + (1 + 2 * WIDTH))
"""Eleven rows: answers of 3 and 1 numbers, features of one teacher and of two."""


def test_what_is_kept_is_what_teachers_say() -> None:
    made, plain = distillation(BYTES), distillation(0)
    dataset = dataset_of(11)
    assert kept(plain, dataset) == []
    assert not plain.kept
    (note,) = kept(made, dataset)
    assert note == f"What teachers say of 11 training rows is kept: {BYTES / 2**20:.3g} MiB."
    rows = torch.tensor([10, 3, 3, 0, 7])
    for present in (("a", "b", "c"), ("b", "c"), ("c",)):
        inputs, targets = dataset.splits["train"]["rows"].rows(rows)
        batches = []
        for asked in (made, plain):
            batch = toy_batch(rows=5)
            part = batch["rows"]
            part.inputs, part.targets, part.present, part.rows = inputs, targets, present, rows
            asked.teach(batch)
            batches.append(part.lessons)
        assert batches[0].keys() == batches[1].keys() == set(present) & {"a", "b"}
        for name, lesson in batches[0].items():
            other = batches[1][name]
            assert len(lesson.features) == {"a": 1, "b": 2}[name]
            torch.testing.assert_close(lesson.answer, other.answer, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(lesson.features, other.features, rtol=1e-6, atol=1e-6)


def test_what_is_not_kept() -> None:
    too_small = distillation(BYTES - 1)
    (note,) = kept(too_small, dataset_of(11))
    assert note.endswith("they are asked in each step.")
    assert "more than distill.cache_gb=" in note
    varied = distillation(BYTES)
    (note,) = kept(varied, dataset_of(11, noise=True))
    assert note.startswith("Teachers are asked in each step: training rows are varied")
    assert too_small.kept == varied.kept == {}
    ragged = dataset_of(11)
    ragged.splits["train"]["rows"].lengths = torch.arange(11)
    assert not repeatable(ragged, "rows")
    assert repeatable(Toy({"train": {"x": numbered(3, ["a"])}}, {"x": ["a"]}), "x")
