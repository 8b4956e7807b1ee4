import builtins
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mtlrun.engine import checkpoint
from mtlrun.errors import UserError


def state(step: int = 1) -> dict[str, Any]:
    return {
        "step": step,
        "model": {"weight": torch.arange(6.0).view(2, 3) * step, "rows": torch.tensor([step, 2])},
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2, dtype=torch.float64)}}, "lr": 1e-3},
        "final": [1.5, None, "text", float("inf")],
    }


def assert_holds(read: dict[str, Any], step: int) -> None:
    written = state(step)
    assert read["step"] == step
    assert torch.equal(read["model"]["weight"], written["model"]["weight"])
    assert torch.equal(read["model"]["rows"], written["model"]["rows"])
    assert read["optimizer"]["state"][0]["exp_avg"].dtype == torch.float64
    assert read["optimizer"]["lr"] == 1e-3
    assert read["final"] == written["final"]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "best.pt"
    checkpoint.write(path, state())
    assert files(path.parent) == ["best.pt"]
    assert_holds(checkpoint.read(path), 1)
    # It is an ordinary file of torch's, for whoever wants the weights.
    assert torch.equal(torch.load(path, weights_only=True)["model"]["rows"], torch.tensor([1, 2]))


def fail_on_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)


def fail_on_write(monkeypatch: pytest.MonkeyPatch) -> None:
    def save(data: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save)


def fail_on_rename(monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(self: Path, target: Path) -> Path:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "replace", replace)


def write_last(folder: Path, new: dict[str, Any]) -> None:
    checkpoint.write(folder / "last.pt", new)


@pytest.mark.parametrize("fail", [fail_on_fsync, fail_on_write, fail_on_rename])
@pytest.mark.parametrize("write", [checkpoint.rotate_and_write, write_last])
def test_a_failing_write_leaves_the_old_one(
    fail: Callable[[pytest.MonkeyPatch], None],
    write: Callable[[Path, dict[str, Any]], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint.rotate_and_write(tmp_path, state(1))
    before = (tmp_path / "last.pt").read_bytes()
    with monkeypatch.context() as patched:
        fail(patched)
        with pytest.raises(OSError, match=r"No space|Input"):
            write(tmp_path, state(2))
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))
    checkpoint.rotate_and_write(tmp_path, state(3))
    assert_holds(checkpoint.read(tmp_path / "last.pt"), 3)
    assert_holds(checkpoint.read(tmp_path / "previous.pt"), 1)


def test_the_data_are_durable_before_the_name_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(handle: int) -> None:
        done.append(("fsync", Path(f"/proc/self/fd/{handle}").resolve().name))
        fsync(handle)

    def note_replace(self: Path, target: Path) -> Path:
        done.append(("rename", target.name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    checkpoint.write(tmp_path / "best.pt", state())
    assert done == [("fsync", ".best.pt.tmp"), ("rename", "best.pt"), ("fsync", tmp_path.name)]


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    assert checkpoint.read_latest(tmp_path) == (None, [])
    for step in (1, 2, 3):
        checkpoint.rotate_and_write(tmp_path, state(step))
    assert files(tmp_path) == ["last.pt", "previous.pt"]
    assert_holds(checkpoint.read(tmp_path / "previous.pt"), 2)
    latest, remarks = checkpoint.read_latest(tmp_path)
    assert latest is not None
    assert_holds(latest, 3)
    assert remarks == []


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_at_any_moment_one_of_the_two_is_whole(
    killed_after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after so many renames of the second rotation."""
    checkpoint.rotate_and_write(tmp_path, state(1))
    renames = 0
    replace = Path.replace

    def die(self: Path, target: Path) -> Path:
        nonlocal renames
        if renames == killed_after:
            raise KeyboardInterrupt
        renames += 1
        return replace(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        try:
            checkpoint.rotate_and_write(tmp_path, state(2))
        except KeyboardInterrupt:
            assert killed_after < 3
    latest, _ = checkpoint.read_latest(tmp_path)
    assert latest is not None
    assert_holds(latest, {1: 1, 2: 1, 3: 2}[killed_after])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_checkpoint_falls_back_to_the_one_before(share: float, tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.rotate_and_write(tmp_path, state(step))
    last = tmp_path / "last.pt"
    os.truncate(last, int(last.stat().st_size * share))
    latest, remarks = checkpoint.read_latest(tmp_path)
    assert latest is not None
    assert_holds(latest, 1)
    assert f"{last} is damaged or is no checkpoint" in remarks[0]
    assert len(remarks) == 1


def test_where_none_is_whole_the_run_says_that_it_starts_again(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.rotate_and_write(tmp_path, state(step))
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"nothing")
    latest, remarks = checkpoint.read_latest(tmp_path)
    assert latest is None
    assert [remark.split()[0] for remark in remarks[:2]] == [
        str(tmp_path / "last.pt"),
        str(tmp_path / "previous.pt"),
    ]
    assert remarks[2] == "No checkpoint is whole: the run starts again."


def test_a_single_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.write(path, state())
    whole = path.read_bytes()
    draws = random.Random(0)
    for place in {*draws.sample(range(len(whole)), 150), 0, len(whole) - 1}:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draws.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(checkpoint.DamagedCheckpointError, match="is damaged"):
            checkpoint.read(path)
    path.write_bytes(whole)
    assert_holds(checkpoint.read(path), 1)


def test_another_format_is_refused_and_never_written_over(tmp_path: Path) -> None:
    checkpoint.rotate_and_write(tmp_path, state(1))
    checkpoint.rotate_and_write(tmp_path, {**state(2), "format": 99})
    with pytest.raises(
        UserError, match=r"checkpoint format 99, and this mtlrun reads 1\. .*study="
    ):
        checkpoint.read(tmp_path / "last.pt")
    # Going on from the one before, or from the beginning, would lose what the other version did.
    with pytest.raises(UserError, match="format 99"):
        checkpoint.read_latest(tmp_path)


class Code:
    """Would open a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return builtins.open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "last.pt", tmp_path / "trace"
    checkpoint.write(path, {**state(), "extra": Code(trace)})
    with pytest.raises(
        UserError, match=r"last\.pt is damaged or is no checkpoint: .* more than data"
    ):
        checkpoint.read(path)
    assert not trace.exists()
