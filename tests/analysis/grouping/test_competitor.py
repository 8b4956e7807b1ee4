"""A grouping as one competitor: which runs are its networks, and what row they make."""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mtlrun.analysis.comparison.command import compare_command
from mtlrun.analysis.comparison.options import add_options, compared
from mtlrun.analysis.curves import loss_curves_of, metric_curves_of
from mtlrun.analysis.grouping.competitor import Competitors, GroupedRun, find_competitors
from mtlrun.analysis.grouping.file import Group, Grouping
from mtlrun.analysis.plots.subject import read_facts
from mtlrun.analysis.report.command import report_command
from mtlrun.analysis.runs import find_runs

if TYPE_CHECKING:
    from conftest import WriteRun

SINGLE_TASK = "equal,architecture=single_task"
ABC = ("a", "b", "c")
SERVED_BY = {"a": 0.6, "b": 0.7, "c": 0.8}
"""What single-task training has."""

Write = Callable[..., Path]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def train(write_run: "WriteRun") -> Write:
    """Write the run of a network of some tasks, whose accuracies are given in their order."""

    def write(tasks: str, *accuracies: float, method: str = "equal", **more: Any) -> Path:
        whole = "" if tasks == "abc" else f",tasks=[{'_'.join(tasks)}]"
        figures = {t: {"accuracy": v} for t, v in zip(tasks, accuracies, strict=True)}
        return write_run(f"{method}{whole}", figures, **more)

    return write


@pytest.fixture
def group(outputs: Path) -> Write:
    """Write a grouping of networks, which serve the tasks in capital letters."""

    def write(*networks: str, name: str = "tag-budget=2", seed: int = 0, **more: Any) -> Path:
        groups = tuple(
            Group(tuple(of.lower()), tuple(t.lower() for t in of if t.isupper())) for of in networks
        )
        facts = {
            "name": name,
            "source": "tag",
            "budget": 2.0,
            "tasks": ABC,
            "groups": groups,
            "value": dict.fromkeys(ABC, 0.5),
            "reference": f"../equal/seed={seed}",
        }
        file = outputs / "default" / "digits" / "groupings" / f"{name}.json"
        Grouping(**{**facts, **more}).write(file)
        return file

    return write


@pytest.fixture
def trained(train: Write) -> None:
    """Everything that ``+sweep=pairs`` trains, with two seeds."""
    for seed in (0, 1):
        more = 0.01 * seed
        train("abc", 0.50 + more, 0.50, 0.50, seed=seed, seconds=12.0)
        train("abc", *SERVED_BY.values(), method=SINGLE_TASK, seed=seed, seconds=30.0)
        train("ab", 0.66 + more, 0.77, seed=seed, seconds=10.0)
        train("ac", 0.62, 0.81, seed=seed, seconds=11.0)
        train("bc", 0.72, 0.88 + more, seed=seed, seconds=9.0)


def competitors(*folders: Path) -> Competitors:
    return find_competitors(folders, find_runs(folders))


def accuracies(run: GroupedRun) -> list[float]:
    return [run.metrics[task]["accuracy"].test for task in ABC]


# -- the figures -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("trained")
def test_each_tasks_figures_are_of_the_network_that_serves_it(group: Write, outputs: Path) -> None:
    file = group("AB", "bC")
    found = competitors(outputs)
    assert found.notes == ()
    assert [(run.seed, accuracies(run)) for run in found.runs] == [
        (0, [0.66, 0.77, 0.88]),
        (1, [0.67, 0.77, 0.89]),
    ]
    run = found.runs[0]
    assert run.method == "grouping tag-budget=2: a+b | (b)+c"
    assert run.settings["grouping"] == "a+b | (b)+c"
    assert run.seconds == 19.0
    assert (run.folder, run.study, run.dataset) == (file, "default", "digits")
    methods = {task: run.source_of(task).folder.parent.name for task in ABC}
    both = {"a": "equal,tasks=[a_b]", "b": "equal,tasks=[a_b]", "c": "equal,tasks=[b_c]"}
    assert methods == both
    assert [source.folder.parent.name for source in run.sources] == list(
        dict.fromkeys(both.values())
    )


@pytest.mark.usefixtures("trained")
def test_a_task_by_itself_is_served_by_single_task_training(
    group: Write, train: Write, outputs: Path
) -> None:
    group("AB", "C")
    run = competitors(outputs).runs[0]
    assert accuracies(run) == [0.66, 0.77, 0.80]
    assert math.isnan(run.seconds)  # the other networks of single-task training took some of its
    assert run.source_of("c").metrics.keys() == {"c"}
    # By itself it says its seconds, too; and of all of single-task training's they are known.
    train("c", 0.84, seconds=4.0)
    assert [(accuracies(r), r.seconds) for r in competitors(outputs).runs][:1] == [
        ([0.66, 0.77, 0.84], 14.0)
    ]
    group("A", "B", "C", name="alone")
    alone = [run for run in competitors(outputs).runs if "alone" in run.method]
    assert [run.seconds for run in alone][1] == 30.0
    assert accuracies(alone[1]) == list(SERVED_BY.values())


@pytest.mark.usefixtures("trained")
def test_all_tasks_in_one_network_are_the_plain_run(group: Write, outputs: Path) -> None:
    group("ABC")
    assert [accuracies(run) for run in competitors(outputs).runs] == [[0.5] * 3, [0.51, 0.5, 0.5]]


@pytest.mark.usefixtures("trained")
def test_what_its_networks_cost(group: Write, outputs: Path) -> None:
    for path in outputs.rglob("result.json"):
        result = json.loads(path.read_text())
        alone = result["architecture"] == "single_task"
        heads = dict.fromkeys(result["tasks"], 100 if alone else 10)
        shared = 0 if alone else 1000
        result["parameters"] = {
            "shared": shared,
            "tasks": heads,
            "total": shared + sum(heads.values()),
        }
        result["forward_flops"] = 7
        path.write_text(json.dumps(result))
    group("AB", "bC")
    assert read_facts(competitors(outputs).runs[0]).parameters == 2 * 1020
    assert read_facts(competitors(outputs).runs[0]).forward_flops == 14
    group("AB", "C")
    facts = read_facts(competitors(outputs).runs[0])
    assert facts.parameters == 1020 + 100
    assert math.isnan(facts.forward_flops)


@pytest.mark.usefixtures("trained")
def test_curves_are_those_of_the_network_that_serves_a_task(group: Write, outputs: Path) -> None:
    for at, path in enumerate(sorted(outputs.rglob("result.json"))):
        tasks = json.loads(path.read_text())["tasks"]
        rows = [f"10,1,{task},0.5,{at},1.0,1.0" for task in tasks]
        head = "step,epoch,task,loss,loss_ratio,weight,grad_norm"
        path.with_name("losses.csv").write_text("\n".join([head, *rows]) + "\n")
        path.with_name("metrics.csv").write_text(
            "\n".join(
                ["epoch,step,split,task,metric,value"]
                + [f"1,10,val,{task},accuracy,{at}" for task in tasks]
            )
        )
    group("AB", "bC")
    run = competitors(outputs).runs[0]
    folders = sorted(path.parent for path in outputs.rglob("result.json"))
    wanted = {task: float(folders.index(run.source_of(task).folder)) for task in ABC}
    assert wanted["a"] == wanted["b"] != wanted["c"]
    ratios = loss_curves_of(run, "loss_ratio")
    assert {task: curve.values.tolist() for task, curve in ratios.items()} == {
        task: [value] for task, value in wanted.items()
    }
    metrics = metric_curves_of(run, "val")
    assert {key: curve.values.tolist() for key, curve in metrics.items()} == {
        f"{task}/accuracy": [value] for task, value in wanted.items()
    }


@pytest.mark.usefixtures("trained")
def test_a_report_lists_the_runs_of_its_networks(group: Write, outputs: Path) -> None:
    group("AB", "bC")
    target = outputs.parent / "report.html"
    assert report_command([str(outputs), "-o", str(target), "--no-cache"]) == 0
    text = target.read_text()
    assert "from 10 finished runs." in text
    assert "cannot be read" not in text
    assert "groupings" not in text
    # As a network of its own, and in the grouping
    folder = outputs / "default/digits/equal,tasks=[a_b]/seed=0"
    assert text.count(f"<code>{folder}</code>") == 2


@pytest.mark.usefixtures("trained")
def test_alone_it_has_single_task_training_beside_it(group: Write, outputs: Path) -> None:
    """As where the user names the methods to draw."""
    file = group("AB", "bC")
    parser = argparse.ArgumentParser()
    add_options(parser)
    _, report = compared(parser.parse_args([str(outputs), "--no-cache"]), only={file})
    (table,) = report.tables
    name = "grouping tag-budget=2: a+b | (b)+c"
    assert {row.method for row in table.rows} == {SINGLE_TASK, name}
    assert "Single-task runs that lie beside the given folders" in report.notes[0]


# -- which runs are its networks -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "serves"),
    [
        ({"config": {"engine": {"affinity": "tag", "affinity_every": 5}}}, True),
        ({"config": {"engine": {"threads": 2}}}, True),
        ({"config": {"optimizer.lr": 0.1}}, False),
        ({"config": {"batch_size": 8}}, False),
        ({"epochs": 5}, False),
        ({"study": "other"}, False),
        ({"weighting": "mgda", "config": {"weighting": {"_target_": "x.MGDA"}}}, False),
        ({"primary": ["a"]}, False),
        ({"seed": 3}, False),
    ],
)
def test_networks_have_the_references_settings(
    group: Write, train: Write, outputs: Path, more: dict[str, Any], serves: bool
) -> None:
    train("abc", 0.5, 0.5, 0.5)
    train("bc", 0.7, 0.8)
    train("ab", 0.6, 0.7, **more)
    group("AB", "bC")
    assert [accuracies(run) for run in competitors(outputs).runs] == [[0.6, 0.7, 0.8]] * serves


def test_primary_tasks_of_the_reference_are_none_of_its_networks(
    group: Write, train: Write, outputs: Path
) -> None:
    """Affinities may be those of a run for one of its tasks; the networks are for all of theirs."""
    tasks = {"of": None, "primary": ["a"], "anneal": 0.5}
    train("abc", 0.5, 0.5, 0.5, config={"tasks": tasks}, primary=["a"])
    train("ab", 0.6, 0.7)
    train("abc", 0.1, 0.2, 0.3, method=SINGLE_TASK)
    group("AB", "C")
    assert [accuracies(run) for run in competitors(outputs).runs] == [[0.6, 0.7, 0.3]]


@pytest.mark.parametrize(
    ("more", "serves"),
    [
        ({"config": {"gradients": {"at": "parameters"}}}, True),
        ({"config": {"optimizer.lr": 0.1}}, False),
        ({"config": {"dataset.fraction": 0.5}}, False),
        ({"config": {"distill": {"teachers": ["a/digits/equal/seed=0"]}}}, False),
    ],
)
def test_single_task_training_may_have_another_method(
    group: Write, train: Write, outputs: Path, more: dict[str, Any], serves: bool
) -> None:
    train("abc", 0.5, 0.5, 0.5)
    train("ab", 0.6, 0.7)
    train("abc", 0.1, 0.2, 0.3, method=SINGLE_TASK, **more)
    group("AB", "C")
    assert [accuracies(run) for run in competitors(outputs).runs] == [[0.6, 0.7, 0.3]] * serves


def test_networks_of_another_size_have_settings_of_their_own(
    group: Write, train: Write, outputs: Path
) -> None:
    half = {"config": {"backbone": {"hidden": [64, 64]}}, "method": "equal,backbone.hidden=[64_64]"}
    train("abc", 0.5, 0.5, 0.5)
    train("ab", 0.6, 0.7)
    train("bc", 0.1, 0.2)
    reference = train("bc", 0.71, 0.81, seed=3, **half)
    own = f"../{reference.parent.name}/seed=3"
    networks = (Group(("a", "b"), ("a", "b")), Group(("b", "c"), ("c",), 0.5, own))
    group(groups=networks)
    assert competitors(outputs).runs == ()
    train("bc", 0.72, 0.82, **half)
    (run,) = competitors(outputs).runs
    assert accuracies(run) == [0.6, 0.7, 0.82]
    assert run.method == "grouping tag-budget=2: a+b | (b)+c [0.5]"
    assert run.settings["backbone.hidden"] == "[128, 128]"


def test_splits_that_follow_the_seed_are_never_mixed_with_fixed_ones(
    group: Write, train: Write, outputs: Path
) -> None:
    for seed in (0, 1):
        own = {"dataset.seed": seed}
        train("abc", 0.5, 0.5, 0.5, seed=seed, config=own)
        train("ab", 0.6 + seed / 10, 0.7, seed=seed, config=own)
    train("bc", 0.7, 0.8, config={"dataset.seed": 0})
    fixed = train("bc", 0.7, 0.9, seed=1, config={"dataset.seed": 0})
    group("AB", "bC")
    assert [accuracies(run) for run in competitors(outputs).runs] == [[0.6, 0.7, 0.8]]
    fixed.joinpath("config.yaml").write_text(
        fixed.joinpath("config.yaml").read_text().replace("seed: 0", "seed: 1")
    )
    assert [accuracies(run)[0] for run in competitors(outputs).runs] == [0.6, 0.7]


# -- groupings that are not whole ------------------------------------------------------------------


def test_what_has_not_been_trained_is_said(group: Write, train: Write, outputs: Path) -> None:
    def said(*networks: str) -> str:
        group(*networks)
        found = competitors(outputs)
        (note,) = found.notes
        assert note.endswith(" `mtlrun group` prints the command that trains them.")
        return f"{[run.seed for run in found.runs]} {note.removeprefix('grouping tag-budget=2: ')}"

    train("abc", 0.5, 0.5, 0.5)
    assert said("AB", "bC").startswith(
        "[] a+b | (b)+c is not in the table: not trained yet are a+b and (b)+c."
    )
    train("ab", 0.6, 0.7, seed=0)
    assert said("AB", "bC").startswith(
        "[] a+b | (b)+c is not in the table: not trained yet is (b)+c."
    )
    for seed in (1, 2):
        train("ab", 0.6, 0.7, seed=seed)
    train("bc", 0.7, 0.8, seed=1)
    assert said("AB", "bC").startswith(
        "[1] a+b | (b)+c is in the table with seed 1 only: not trained yet is (b)+c with seeds "
        "0 and 2."
    )


@pytest.mark.usefixtures("trained")
def test_damaged_files_and_lost_references_are_told_of(group: Write, outputs: Path) -> None:
    group("AB", "bC", name="lost", seed=7)
    group("AB", "bC", name="damaged").write_text("{")
    group("AB", "bC", name="whole")
    found = competitors(outputs)
    assert {run.method for run in found.runs} == {"grouping whole: a+b | (b)+c"}
    damaged, lost = found.notes
    assert "damaged.json cannot be read" in damaged
    assert damaged.endswith("It is left out.")
    assert "equal/seed=7, the reference run of grouping lost, is not there" in lost
    assert lost.endswith("It is left out.")


@pytest.mark.usefixtures("trained")
def test_the_same_networks_are_one_row(group: Write, outputs: Path) -> None:
    for name in ("tag-budget=2", "tag-budget=3"):
        group("AB", "bC", name=name)
    assert {run.method for run in competitors(outputs).runs} == {
        "grouping tag-budget=2, tag-budget=3: a+b | (b)+c"
    }


@pytest.mark.usefixtures("trained")
def test_files_beside_the_given_folders_do_not_count(group: Write, outputs: Path) -> None:
    group("AB", "bC")
    dataset = outputs / "default" / "digits"
    assert len(competitors(dataset).runs) == 2
    methods = sorted(path for path in dataset.iterdir() if path.name != "groupings")
    assert competitors(*methods) == Competitors()


def test_a_long_grouping_is_told_in_a_note(train: Write, group: Write, outputs: Path) -> None:
    names = [f"a_task_with_a_long_name_{at}" for at in range(5)]
    config: dict[str, Any] = {"engine": {}}

    def run(tasks: Sequence[str], method: str) -> None:
        train(tasks, *[0.5] * len(tasks), method=method, config=config)

    run(names, "equal")
    run(names[:3], "equal,x")
    run(names[3:], "equal,y")
    group(
        tasks=tuple(names),
        value=dict.fromkeys(names, 0.0),
        groups=(
            Group(tuple(names[:3]), tuple(names[:3])),
            Group(tuple(names[3:]), tuple(names[3:])),
        ),
        reference=f"../equal,tasks=[{'_'.join(names)}]/seed=0",
    )
    found = competitors(outputs)
    assert found.runs[0].method == "grouping tag-budget=2: 2 networks"
    text = f"{'+'.join(names[:3])} | {'+'.join(names[3:])}"
    assert found.notes == (f"grouping tag-budget=2: 2 networks are {text}.",)


# -- in the table ----------------------------------------------------------------------------------


@pytest.fixture
def table_json(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """What ``mtlrun compare`` gives as JSON."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(outputs.parent / "cache"))

    def call(*options: str) -> Any:
        assert compare_command([str(outputs), "--format", "json", *options]) == 0
        return json.loads(capsys.readouterr().out)

    return call


@pytest.mark.usefixtures("trained")
def test_it_is_a_row_beside_all_in_one_and_single_task_training(
    group: Write, table_json: Callable[..., Any]
) -> None:
    group("AB", "bC")
    table = table_json()["tables"][0]
    rows = {row["label"]: row for row in table["rows"]}
    name = "grouping tag-budget=2: a+b | (b)+c"
    assert list(rows) == [SINGLE_TASK, name, "equal"]
    row = rows[name]
    changes = [100 * (0.665 - 0.6) / 0.6, 100 * (0.77 - 0.7) / 0.7, 100 * (0.885 - 0.8) / 0.8]
    assert row["figures"]["delta_m/over_metrics"]["mean"] == pytest.approx(sum(changes) / 3)
    assert [t["change"] for t in row["transfer"]] == pytest.approx(changes)
    assert row["seeds"] == 2
    assert row["figures"]["seconds"]["mean"] == 19.0
    assert row["test"]["against"] == table["reference"] == "equal"
    # Seed 1 has 0.01 more on a and c: 0.5 (1/0.6 + 1/0.8) % more, and all-in-one 1/0.6 % on a.
    own = [100 * (v - b) / b for v, b in ((0.66, 0.6), (0.77, 0.7), (0.88, 0.8))]
    plain = [100 * (0.5 - b) / b for b in SERVED_BY.values()]
    first = (sum(own) - sum(plain)) / 3
    second = first + (1 / 0.8) / 3
    assert row["test"]["difference"] == pytest.approx((first + second) / 2)
    folders = [(run["seed"], Path(run["folder"]).parent.name) for run in row["runs"]]
    assert folders == [(seed, f"equal,tasks=[{of}]") for seed in (0, 1) for of in ("a_b", "b_c")]
    assert not any("grouping=" in note for note in table["notes"])
    # In sentences it goes without its networks, and can be asked for so.
    assert "grouping tag-budget=2 is best by delta_m" in table["answer"][0]
    assert table_json("--reference", "grouping tag-budget=2")["tables"][0]["reference"] == name


@pytest.mark.usefixtures("trained")
def test_the_cache_knows_nothing_of_it(
    group: Write, table_json: Callable[..., Any], outputs: Path
) -> None:
    without = table_json()
    file = group("AB", "bC")
    first, again = table_json(), table_json()
    assert first == again == table_json("--no-cache")
    assert len(first["tables"][0]["rows"]) == len(without["tables"][0]["rows"]) + 1
    kept = "".join(path.read_text() for path in (outputs.parent / "cache").rglob("*.json"))
    assert "equal,tasks=[a_b]" in kept
    assert "grouping" not in kept
    file.unlink()
    assert table_json() == without


@pytest.mark.usefixtures("trained")
def test_seconds_that_nobody_knows_are_explained(
    group: Write, table_json: Callable[..., Any]
) -> None:
    group("AB", "C")
    table = table_json()["tables"][0]
    assert [note for note in table["notes"] if "seconds" in note] == [
        "grouping tag-budget=2: seconds are not known, as single-task training, which trained "
        "further networks, lends some of its own."
    ]
