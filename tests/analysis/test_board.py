"""Names of runs, links into TensorBoard's pages, and the command around them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from mtlrun.analysis.board import best_runs, board_command, free_port, links
from mtlrun.analysis.run_names import LinkTree, find_places, name_places
from mtlrun.analysis.runs import FoundRuns, find_runs
from mtlrun.errors import UserError

if TYPE_CHECKING:
    from conftest import WriteRun

SHARED = "scheduler=cosine,heads=conv,epochs=10"
EVENTS = "events.out.tfevents.1700000000.host.1.0"


def events_in(folder: Path) -> Path:
    """Make it a folder with TensorBoard events."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVENTS).touch()
    return folder


def names_below(*roots: Path) -> list[str]:
    return sorted(name_places(find_places(roots)).values())


def test_names_leave_out_what_all_runs_have(tmp_path: Path) -> None:
    for method in (f"equal,{SHARED}", f"mgda,{SHARED}", f"equal,architecture=mtan,{SHARED}"):
        events_in(tmp_path / "outputs/first/nyuv2" / method / "seed=0")
    assert names_below(tmp_path) == [
        "equal,architecture=mtan/seed=0",
        "equal/seed=0",
        "mgda/seed=0",
    ]


def test_datasets_and_studies_are_named_where_there_are_several(tmp_path: Path) -> None:
    for study, dataset, seed in (
        ("first", "nyuv2", 0),
        ("second", "nyuv2", 0),
        ("first", "fdu_mtl", 1),
    ):
        events_in(tmp_path / study / dataset / f"mgda,{SHARED}" / f"seed={seed}")
    assert names_below(tmp_path) == [
        "fdu_mtl/mgda/seed=1",
        "first/nyuv2/mgda/seed=0",
        "second/nyuv2/mgda/seed=0",
    ]


def test_names_that_were_cut_are_told_apart(tmp_path: Path) -> None:
    settings = [f"dataset.setting_{number:02}=abcdefgh" for number in range(12)]
    whole = {
        "hps": ",".join(["equal", *settings]),
        "stitched": ",".join(["equal", "architecture=cross_stitch", *settings]),
        "other": ",".join(["equal", *settings[:-1], "dataset.setting_99=1"]),
    }
    for digest, method in zip(("aaaaaa", "bbbbbb", "cccccc"), whole.values(), strict=True):
        events_in(tmp_path / "study/digits" / f"{method[:180]}-{digest}" / "seed=0")
    assert names_below(tmp_path) == [
        "equal,architecture=cross_stitch/seed=0",
        "equal-aaaaaa/seed=0",
        "equal-cccccc/seed=0",
    ]


def test_runs_of_the_same_name_in_two_folders_keep_their_paths(tmp_path: Path) -> None:
    run = "default/digits/mgda/seed=0"
    folders = [events_in(tmp_path / place / run) for place in ("here", "there")]
    expected = sorted(str(folder.resolve()).lstrip("/") for folder in folders)
    assert names_below(tmp_path / "here", tmp_path / "there") == expected
    assert names_below(tmp_path / "here", tmp_path / "here/default") == ["mgda/seed=0"]


def test_new_runs_are_linked_and_old_ones_keep_their_names(tmp_path: Path) -> None:
    outputs = tmp_path / "outputs/default/digits"
    first = events_in(outputs / "mgda,epochs=8/seed=0")
    tree = LinkTree(tmp_path / "tree", [outputs])
    assert tree.refresh() == 1
    assert (tree.folder / "mgda/seed=0").resolve() == first.resolve()
    second = events_in(outputs / "mgda,epochs=9/seed=0")
    toy = events_in(outputs / "toy")
    assert tree.refresh() == 2
    assert tree.refresh() == 0
    assert dict(tree.names) == {
        first.resolve(): "mgda/seed=0",
        second.resolve(): "mgda,epochs=9/seed=0",
        toy.resolve(): "toy",
    }
    assert (tree.folder / "mgda,epochs=9/seed=0" / EVENTS).is_file()


def query_of(link: str) -> dict[str, str]:
    return {key: value for key, (value,) in parse_qs(urlsplit(link).query).items()}


def test_links_carry_filters() -> None:
    shown = links("http://localhost:6006/", {}, None, FoundRuns())
    assert list(shown) == [
        "loss ratios",
        "metrics, val split",
        "tasks together",
        "table of runs",
        "results as text",
    ]
    ratios = query_of(shown["loss ratios"])
    assert ratios == {
        "tagFilter": "train/loss_ratio/",
        "runColorGroup": "regex:(.*)/seed=",
        "smoothing": "0",
    }
    assert urlsplit(shown["loss ratios"]).fragment == "timeseries"
    assert query_of(shown["metrics, val split"])["tagFilter"] == "^val/"
    assert shown["table of runs"] == "http://localhost:6006/#hparams"
    only = links("http://localhost:6006/", {}, "mgda|a b&c", FoundRuns())
    assert query_of(only["loss ratios"])["runFilter"] == "mgda|a b&c"
    assert parse_qs(urlsplit(only["tasks together"]).fragment)["regexInput"] == ["mgda|a b&c"]


def test_the_best_methods_have_a_link_beside_their_baseline(
    write_run: "WriteRun", tmp_path: Path
) -> None:
    scores = {"equal,architecture=single_task": 0.8, "equal": 0.81, "mgda": 0.84, "cagrad": 0.83}
    folders = {
        method: write_run(method, {"digit": {"accuracy": score}})
        for method, score in scores.items()
    }
    assert best_runs(find_runs([tmp_path / "outputs"])) == []  # three: no more than are the best
    folders["famo[x]"] = write_run("famo[x]", {"digit": {"accuracy": 0.9}})
    found = find_runs([tmp_path / "outputs"])
    best = {"famo[x]", "mgda", "cagrad", "equal,architecture=single_task"}
    assert set(best_runs(found)) == {folders[method].resolve() for method in best}
    names = {folder.resolve(): f"{method}/seed=0" for method, folder in folders.items()}
    shown = links("http://localhost:6006/", names, None, found)
    pattern = query_of(shown["loss ratios, best methods"])["runFilter"]
    assert {name for name in names.values() if re.search(pattern, name)} == {
        f"{method}/seed=0" for method in best
    }
    assert "loss ratios, best methods" not in links("http://localhost/", names, "mgda", found)


def test_runs_selected_on_the_test_split_are_looked_at_there(
    write_run: "WriteRun", tmp_path: Path
) -> None:
    write_run("mgda", {"digit": {"accuracy": 0.9}}, select_on="test")
    shown = links("http://localhost/", {}, None, find_runs([tmp_path / "outputs"]))
    assert query_of(shown["metrics, test split"])["tagFilter"] == "^test/"


def test_a_port_that_is_taken_gives_way_to_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port("127.0.0.1", port) > port
    assert free_port("127.0.0.1", port) == port
    with pytest.raises(UserError, match="there is no such address here"):
        free_port("no.such.host.invalid", 6006)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["outputs"], "There are no TensorBoard events below outputs. Runs write them"),
        (["missing"], "missing is not there. Give a folder that holds runs"),
        (["outputs", "--port", "70000"], "use a number from 1 to 65535"),
        (["outputs", "--runs", "("], r"--runs \( is no regular expression"),
    ],
)
def test_what_cannot_be_shown_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/default").mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        board_command(arguments)


COMMAND = (
    "from mtlrun.analysis.board import board_command as b; import sys; sys.exit(b(sys.argv[1:]))"
)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The command on two runs, as a process of its own."""
    from torch.utils.tensorboard import SummaryWriter

    for method in ("mgda", "equal"):
        with SummaryWriter(str(tmp_path / f"outputs/default/digits/{method},epochs=8/seed=0")) as w:
            w.add_scalar("train/loss_ratio/digit", 1.0, 1)
    (tmp_path / "tmp").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(tmp_path / "outputs"), "--port=6200", "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), "PYTHONUNBUFFERED": "1"},
        text=True,
    ) as process:
        yield process
        process.terminate()  # it ends TensorBoard first


@pytest.mark.slow
def test_tensorboard_shows_the_runs_and_ends_with_ctrl_c(
    board: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert board.stdout is not None
    for line in board.stdout:
        if found := re.search(r"loss ratios +(http://localhost:\d+/)", line):
            break
    else:
        pytest.fail("there was no link")
    with urllib.request.urlopen(f"{found[1]}data/runs") as answer:
        assert set(json.load(answer)) == {"equal/seed=0", "mgda/seed=0"}
    board.send_signal(signal.SIGINT)
    assert board.wait(timeout=30) == 0
    assert board.stdout.read().endswith("Stopped.\n")
    assert not list((tmp_path / "tmp").glob("mtlrun-*"))
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(found[1], timeout=5)
