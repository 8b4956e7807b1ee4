import errno
import json
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
import torch

from mtlrun.data.prepared import (
    MANIFEST,
    PROGRESS,
    ROWS_A_CHECKPOINT,
    ArraySpec,
    Plan,
    PreparedSource,
    open_arrays,
    read_plan,
    write_prepared,
)
from mtlrun.errors import UserError

ROWS = 3 * ROWS_A_CHECKPOINT + 5
PLAN = Plan(
    ROWS,
    {
        "image": ArraySpec((3, 4), "uint8"),
        "depth": ArraySpec((2,), "float16"),
        "class": ArraySpec((), "uint8"),
        "known": ArraySpec((), "bool"),
    },
    {"source": "test", "size": (3, 4)},
)


class StoppedError(Exception):
    pass


def row_of(row):
    return {
        "image": np.full((3, 4), row % 251),
        "depth": np.array([row / 7, row]),
        "class": np.array(row % 5),
        "known": np.array(row % 3 == 0),
    }


def nothing(rows_done):
    pass


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    write_prepared(tmp_path / "prepared", PLAN, row_of, nothing)
    return tmp_path / "prepared"


def source_of(folder, **changes):
    settings = {
        "inputs": "image",
        "targets": {"digit": "class", "far": "depth"},
        "labelled": {"far": "known"},
        **changes,
    }
    return PreparedSource(folder, torch.arange(ROWS), **settings)


# -- writing ---------------------------------------------------------------------------------------


def test_what_was_written_is_read(folder):
    arrays = open_arrays(folder)
    assert arrays["image"].shape == (ROWS, 3, 4)
    assert [arrays[name].dtype.name for name in PLAN.arrays] == [
        "uint8",
        "float16",
        "uint8",
        "bool",
    ]
    assert (arrays["image"][:, 2, 3] == np.arange(ROWS) % 251).all()
    assert (arrays["depth"][:, 1] == np.arange(ROWS)).all()
    assert (arrays["known"] == (np.arange(ROWS) % 3 == 0)).all()
    assert read_plan(folder).to_json() == PLAN.to_json()
    assert not (folder / PROGRESS).exists()
    assert not arrays["image"].flags.writeable


@pytest.mark.parametrize("stop", [0, 1, ROWS_A_CHECKPOINT - 1, ROWS_A_CHECKPOINT + 3, ROWS - 1])
def test_it_goes_on_where_it_was_stopped(tmp_path, folder, stop):
    def stopping(row):
        if row == stop:
            raise StoppedError
        return row_of(row)

    again = tmp_path / "again"
    with pytest.raises(StoppedError):
        write_prepared(again, PLAN, stopping, nothing)
    assert read_plan(again) is None
    read, told = [], []

    def reading(row):
        read.append(row)
        return row_of(row)

    write_prepared(again, PLAN, reading, told.append)
    safe = stop // ROWS_A_CHECKPOINT * ROWS_A_CHECKPOINT
    assert read == list(range(safe, ROWS))
    assert told == list(range(safe, ROWS + 1))
    assert contents(again) == contents(folder)


def test_a_killed_process_loses_no_recorded_row(tmp_path, folder):
    again = tmp_path / "again"

    def slowly(row):
        time.sleep(0.004)
        return row_of(row)

    child = os.fork()
    if child == 0:
        try:
            write_prepared(again, PLAN, slowly, nothing)
        finally:
            os._exit(0)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if json.loads((again / PROGRESS).read_text())["rows_done"] > 0:
                break
        except (FileNotFoundError, ValueError):
            pass
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert read_plan(again) is None
    with pytest.raises(UserError, match="holds no finished prepared data"):
        open_arrays(again)

    read = []
    write_prepared(again, PLAN, lambda row: read.append(row) or row_of(row), nothing)
    assert read[0] >= ROWS_A_CHECKPOINT
    assert contents(again) == contents(folder)


def test_a_finished_folder_is_left_alone(folder):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    told = []
    write_prepared(folder, PLAN, lambda row: pytest.fail("read again"), told.append)
    assert told == [ROWS]
    assert {n: (folder / n).stat().st_mtime_ns for n in before if n != ".lock"} == {
        n: when for n, when in before.items() if n != ".lock"
    }
    other = Plan(ROWS, PLAN.arrays, {**PLAN.facts, "source": "another"})
    with pytest.raises(UserError, match="source: test, wanted another"):
        write_prepared(folder, other, row_of, nothing)


def test_rows_of_another_plan_are_not_mistaken_for_this_one(tmp_path, folder):
    other = Plan(ROWS, PLAN.arrays, {**PLAN.facts, "source": "another"})

    def stopping_at(stop):
        def read(row):
            if row == stop:
                raise StoppedError
            return {name: value + 1 for name, value in row_of(row).items() if name != "known"} | {
                "known": np.array(False)
            }

        return read

    again = tmp_path / "again"
    with pytest.raises(StoppedError):
        write_prepared(again, PLAN, stopping_at(70), nothing)
    with pytest.raises(
        StoppedError
    ):  # stopped before its first record, over the rows of the first plan
        write_prepared(again, other, stopping_at(20), nothing)
    read = []
    write_prepared(again, PLAN, lambda row: read.append(row) or row_of(row), nothing)
    assert read[0] == 0
    assert contents(again) == contents(folder)


def test_two_at_once_do_the_work_once(tmp_path, folder):
    read = []

    def reading(row):
        read.append(row)
        time.sleep(0.001)
        return row_of(row)

    again = tmp_path / "again"
    threads = [
        threading.Thread(target=write_prepared, args=(again, PLAN, reading, nothing))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == list(range(ROWS))
    assert contents(again) == contents(folder)


def test_a_full_disk_says_how_much_is_needed_and_keeps_what_is_done(tmp_path, monkeypatch):
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 12:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left to prepare .*: it needs 0\.00 GB"):
        write_prepared(tmp_path / "a", PLAN, row_of, nothing)
    monkeypatch.setattr(os, "fsync", sync)
    read = []
    write_prepared(tmp_path / "a", PLAN, lambda row: read.append(row) or row_of(row), nothing)
    assert read[0] == ROWS_A_CHECKPOINT


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/prepared cannot be written"):
        write_prepared(tmp_path / "file" / "prepared", PLAN, row_of, nothing)


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda f: (f / "depth.npy").unlink(), r"depth\.npy is missing or damaged"),
        (lambda f: os.truncate(f / "depth.npy", 200), r"depth\.npy is missing or damaged"),
        (
            lambda f: np.save(f / "depth.npy", np.zeros((3, 2))),
            r"depth\.npy holds float64 \[3, 2\]",
        ),
        (lambda f: (f / MANIFEST).unlink(), "holds no finished prepared data"),
        (lambda f: (f / MANIFEST).write_text('{"rows"'), r"manifest\.json is damaged"),
        (lambda f: (f / MANIFEST).write_text("[]"), r"manifest\.json is damaged"),
    ],
)
def test_damaged_folders_are_named(folder, spoil, named):
    spoil(folder)
    with pytest.raises(UserError, match=named):
        open_arrays(folder)


def test_a_folder_of_another_format_is_refused(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format": 0}))
    with pytest.raises(UserError, match=r"has format 0, and this version of mtlrun reads format 1"):
        read_plan(folder)


def test_rows_are_gathered_by_index(folder):
    source = source_of(folder)
    inputs, targets = source.rows(torch.tensor([7, 3, 100]))
    assert inputs.dtype == torch.uint8
    assert inputs[:, 0, 0].tolist() == [7, 3, 100]
    assert targets["digit"].tolist() == [2, 3, 0]
    assert targets["far"].dtype == torch.float16
    assert targets["far"][:, 1].tolist() == [7, 3, 100]
    assert source.labelled["far"].tolist() == [row % 3 == 0 for row in range(ROWS)]
    assert "digit" not in source.labelled
    assert source.row_bytes == 12 + 4 + 1


def test_subsets_and_selections(folder):
    source = source_of(folder).subset(torch.tensor([10, 12, 14, 15])).select(["far"])
    inputs, targets = source.rows(torch.tensor([3, 0]))
    assert inputs[:, 0, 0].tolist() == [15, 10]
    assert list(targets) == ["far"]
    assert len(source) == 4
    assert source.labelled["far"].tolist() == [False, True, False, True]
    assert source.subset(torch.tensor([3])).rows(torch.tensor([0]))[0][0, 0, 0] == 15
    assert source_of(folder).select(["digit"]).labelled == {}


def test_only_the_arrays_of_the_selected_tasks_are_opened(folder):
    (folder / "depth.npy").unlink()
    source = source_of(folder, labelled={}).select(["digit"])
    assert source.rows(torch.tensor([1]))[1]["digit"].tolist() == [1]


def test_labels_are_renumbered_by_a_table(folder):
    table = np.full(256, 255, dtype=np.uint8)
    table[:3] = [10, 11, 12]
    targets = source_of(folder, tables={"digit": table}).rows(torch.arange(5))[1]
    assert targets["digit"].tolist() == [10, 11, 12, 255, 255]
    assert targets["digit"].dtype == torch.uint8


def test_rows_held_in_memory_are_the_same(folder):
    source = source_of(folder).subset(torch.tensor([5, 9, 11]))
    held = source.in_memory()
    for first, second in zip(source.rows(torch.arange(3)), held.rows(torch.arange(3)), strict=True):
        torch.testing.assert_close(first, second)
    assert held.labelled["far"].tolist() == [False, True, False]
    held.inputs[0] = 0  # rows of its own, that may be written to
    assert source.rows(torch.tensor([0]))[0].max() == 5


def test_it_travels_to_other_processes_without_its_rows(folder):
    source = source_of(folder)
    source.rows(torch.arange(4))
    sent = pickle.dumps(source)
    assert len(sent) < 3 * ROWS * 8 + 2000
    assert pickle.loads(sent).rows(torch.tensor([9]))[0][0, 0, 0] == 9
