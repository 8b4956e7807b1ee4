"""``+experiment=distill``: teachers, then students with and without them, and what is missing."""

import shutil
from pathlib import Path

import pytest
from commands import csv_files, result, run_folders

from mtlrun.cli import run_command

CHAIN = (
    "+experiment=distill",
    "seed=0",
    "epochs=1",
    "engine.threads=1",
    "tracking.tensorboard=false",
)
APART, PLAIN = "equal,architecture=single_task", "equal"


def test_a_chain_does_what_is_missing_and_its_student_learns_from_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    common = ",engine.threads=1,epochs=1"
    assert run_command([*CHAIN, "distill.weight=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "1/3 finished: weighting=equal architecture=single_task",
        "2/3 finished: the run",
        "3/3 finished: distill.teachers=weighting=equal,architecture=single_task",
        "Table of runs: mtlrun compare outputs/default",
    ]
    folders = {result(folder)["method"]: folder for folder in run_folders(tmp_path)}
    (method,) = folders.keys() - {f"{APART}{common}", f"{PLAIN}{common}"}
    student = folders.pop(method)
    assert result(student)["changed"]["distill.teachers"] == [
        f"outputs/default/digits/{APART}{common}"
    ]
    assert result(student)["tasks"] != result(folders[f"{PLAIN}{common}"])["tasks"]
    # What is lost is done again, from the same teachers; the teachers are not.
    before, times = csv_files(student), [path.stat().st_mtime_ns for path in folders.values()]
    shutil.rmtree(student)
    assert run_command([*CHAIN, "distill.weight=1"]) == 0
    assert capsys.readouterr().out.startswith("2 of 3 jobs are finished already")
    assert csv_files(student) == before
    assert [path.stat().st_mtime_ns for path in folders.values()] == times
