"""``mtlrun group`` on run folders, and the command that it prints."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from mtlrun.analysis.grouping.affinities import from_affinities
from mtlrun.analysis.grouping.command import group_command
from mtlrun.analysis.grouping.file import Grouping
from mtlrun.analysis.grouping.sources import evidence_below
from mtlrun.analysis.runs import find_runs
from mtlrun.cli import config_folder
from mtlrun.config import changed_settings, plain, register
from mtlrun.errors import UserError
from mtlrun.overrides import with_open_keys

if TYPE_CHECKING:
    from conftest import WriteRun

ALONE = {"a": 0.8, "b": 0.5, "c": 2.0}
HIGHER = {"a": "accuracy", "b": "r2", "c": "rmse"}
"""The metric of each task; of c less is better."""

FLOPS = {1: 95.0, 2: 97.0, 3: 100.0}


def trained(
    write_run: "WriteRun", tasks: str, gains: Sequence[float], seed: int = 0, **options: Any
) -> Path:
    """A run of some tasks, each so many percent better than alone on the validation split.

    On the test split all are worse, which nothing may be chosen by.
    """
    method = options.pop("method", "equal" if tasks == "abc" else f"equal,tasks=[{tasks}]")
    better = {task: 1 + gain / 100 for task, gain in zip(tasks, gains, strict=True)}
    values = {
        task: ALONE[task] * (2 - factor if task == "c" else factor)
        for task, factor in better.items()
    }
    metrics = {task: {HIGHER[task]: 0.1} for task in tasks}
    config = {"tasks": None if tasks == "abc" else list(tasks), **options.pop("config", {})}
    folder = write_run(
        method,
        metrics,
        seed=seed,
        config=config,
        **{"selected_epoch": 2, "changed": {}, "forward_flops": FLOPS[len(tasks)]} | options,
    )
    rows = [
        f"{epoch},9,{split},{task},{HIGHER[task]},{value if (epoch, split) == (2, 'val') else 9}"
        for epoch in (1, 2)
        for split in ("val", "test")
        for task, value in values.items()
    ]
    (folder / "metrics.csv").write_text("\n".join(["epoch,step,split,task,metric,value", *rows]))
    return folder


def single_task(write_run: "WriteRun", seed: int = 0) -> Path:
    name = "equal,architecture=single_task"
    return trained(write_run, "abc", (0, 0, 0), seed, method=name, forward_flops=285.0)


def affinity(folder: Path, table: Mapping[str, float], *steps: float) -> None:
    """Write ``affinity.csv``: a table by source and target, times each step's factor."""
    rows = [
        f"{10 * at},{pair[0]},{pair[1]},{value * factor}"
        for at, factor in enumerate(steps, start=1)
        for pair, value in table.items()
    ]
    (folder / "affinity.csv").write_text("\n".join(["step,source,target,value", *rows]))


TABLE = {"ab": 0.5, "ba": 0.3, "ac": -0.1, "ca": -0.2, "bc": 0.2, "cb": 0.1, "aa": 9, "bb": 9}
MEASURES = {"engine": {"affinity": "tag", "affinity_every": 10}}


def run_group(*arguments: object, capsys: pytest.CaptureFixture[str]) -> str:
    assert group_command([*map(str, arguments), "--no-cache"]) == 0
    return capsys.readouterr().out


# -- affinities ------------------------------------------------------------------------------------


def test_affinities_are_means_over_steps_then_over_seeds(write_run: "WriteRun") -> None:
    for seed, steps in ((0, (1.0, 3.0)), (1, (4.0,))):
        folder = trained(write_run, "abc", (0, 0, 0), seed, config=MEASURES)
        affinity(folder, TABLE, *steps)
    with (folder / "affinity.csv").open("a") as file:
        file.write("\n20,a,b,\n20,b,a,nan")  # steps without one of the tasks
    evidence = evidence_below(folder.parents[1])
    assert (evidence.source, evidence.tasks, evidence.seeds) == ("tag", ("a", "b", "c"), (0, 1))
    (candidates,) = evidence.candidates
    # A task's value beside others is the mean of what they do for it: (2 + 4) / 2 times the table.
    values = candidates.values(np.array([True, True, False]))
    assert values[:2] == pytest.approx([3 * 0.3, 3 * 0.5])
    assert evidence.all_in_one == pytest.approx({"a": 0.15, "b": 0.9, "c": 0.15})
    assert evidence.alone is None
    assert "the mean of 1 to 2 steps of 2 runs (seed 0, 1)" in evidence.said[0]


def test_the_grouping_by_affinities(
    write_run: "WriteRun", capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained(write_run, "abc", (0, 0, 0), config=MEASURES)
    affinity(folder, TABLE, 1.0)
    dataset = folder.parents[1]
    output = run_group(dataset, "--budget", 2, capsys=capsys)
    file = dataset / "groupings" / "tag-budget=2.json"
    grouping = Grouping.read(file)
    assert [(g.tasks, g.serves) for g in grouping.groups] == [
        (("a", "b"), ("a", "b")),
        (("b", "c"), ("c",)),
    ]
    assert grouping.value == pytest.approx({"a": 0.3, "b": 0.5, "c": 0.2})
    assert grouping.reference_folder(file) == folder.resolve()
    # (0.3 + 0.5 + 0.2) / 3 against (0.05 + 0.3 + 0.05) / 3
    assert "+0.2 of TAG affinity in the mean over tasks" in output
    assert "Against one network a task: not known" in output
    assert max(map(len, output.splitlines()[:20])) <= 80
    # Another grouping of that name is replaced, which is said; the same one is left as it is.
    before = file.stat().st_mtime_ns
    again = run_group(dataset, "--budget", 2, capsys=capsys)
    assert "in place of" not in again
    assert file.stat().st_mtime_ns == before
    alone = run_group(dataset, "--budget", 3, "--name", "tag-budget=2", capsys=capsys)
    assert "in place of another one of that name" in alone
    written = dataset / "written.json"
    run_group(dataset, "--budget", 1, "-o", written, capsys=capsys)
    said = json.loads(written.read_text(encoding="utf-8"))
    assert said["grouping"]["groups"] == [{"tasks": [*"abc"], "serves": [*"abc"], "cost": 1.0}]
    assert (said["proven"], said["alone"]) == (True, None)
    assert "tasks=null" in shlex.split(said["train"][0])


def test_what_was_measured_otherwise_is_not_mixed(write_run: "WriteRun") -> None:
    for kind, factor in (("tag", 1.0), ("cosine", 2.0)):
        config = {"engine": {"affinity": kind}}
        folder = trained(write_run, "abc", (0, 0, 0), method=f"equal,{kind}", config=config)
        affinity(folder, TABLE, factor)
    outputs = folder.parents[2]
    assert evidence_below(outputs).source == "tag"
    cosine = evidence_below(outputs, "cosine")
    assert cosine.all_in_one == pytest.approx({"a": 0.1, "b": 0.6, "c": 0.1})
    other = trained(write_run, "abc", (0, 0, 0), method="mgda", weighting="mgda", config=MEASURES)
    affinity(other, TABLE, 5.0)
    with pytest.raises(UserError, match=r"weighting=equal; weighting=mgda.*--with KEY=VALUE"):
        evidence_below(outputs)
    narrowed = evidence_below(outputs, wanted={"weighting": "mgda"})
    assert narrowed.all_in_one == pytest.approx({"a": 0.25, "b": 1.5, "c": 0.25})
    with pytest.raises(UserError, match=r"There are weighting=equal, weighting=mgda"):
        evidence_below(outputs, wanted={"weighting": "mdga"})
    affinity(other, {pair: value for pair, value in TABLE.items() if pair != "cb"}, 1.0)
    with pytest.raises(UserError, match="no affinity of c onto b"):
        from_affinities("tag", find_runs([other]).finished)


def test_what_is_left_out_is_said_and_a_task_left_alone_has_no_value(
    write_run: "WriteRun", capsys: pytest.CaptureFixture[str]
) -> None:
    for tasks in ("ab", "abc"):
        folder = trained(write_run, tasks, (0,) * len(tasks), config=MEASURES)
        affinity(folder, TABLE, 1e-7)
    again = {"engine": {"affinity": "tag", "affinity_every": 1}}
    twice = trained(write_run, "abc", (0, 0, 0), method="equal,affinity_every=1", config=again)
    affinity(twice, TABLE, 7.0)
    (folder.parents[1] / "mgda" / "seed=0").mkdir(parents=True)
    state = {"state": "failed", "reason": "no memory"}
    (folder.parents[1] / "mgda" / "seed=0" / "status.json").write_text(json.dumps(state))
    said = " ".join(evidence_below(folder.parents[1]).said)
    assert "Left out, as they have fewer tasks: 1 that measured it." in said
    assert "is the same method and seed" in said
    assert "Not finished, and left out: 1 run." in said
    alone = trained(write_run, "a", (0,), config=MEASURES, dataset="one")
    affinity(alone, {"aa": 1.0}, 1.0)
    output = run_group(alone.parents[1], "--budget", 1, capsys=capsys)
    assert Grouping.read(alone.parents[1] / "groupings" / "tag-budget=1.json").value == {"a": -1e6}
    assert "not known" in output


def test_tasks_may_be_called_like_numbers(write_run: "WriteRun") -> None:
    metrics = {task: {"accuracy": 0.5} for task in ("01", "1.0")}
    folder = write_run("equal", metrics, config=MEASURES)
    affinity(folder, {}, 1.0)
    (folder / "affinity.csv").write_text("step,source,target,value\n1,01,1.0,0.25\n1,1.0,01,0.5")
    assert evidence_below(folder).all_in_one == {"01": 0.5, "1.0": 0.25}


def test_the_command_has_neither_primary_tasks_nor_one_seeds_split(
    write_run: "WriteRun", capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (3, 4):
        changed = {"tasks.primary": ["a"], "tasks.anneal": 0.5, "dataset.seed": seed, "epochs": 2}
        config = {**MEASURES, "dataset.seed": seed}
        folder = trained(write_run, "abc", (0, 0, 0), seed, config=config, changed=changed)
        affinity(folder, TABLE, 1.0)
    said = run_group(folder.parents[1], "--budget", 2, "--format", "json", capsys=capsys)
    (line,) = (shlex.split(text) for text in json.loads(said)["train"])
    assert line[2:5] == ["dataset=digits", "weighting=equal", "epochs=2"]
    assert line[-2:] == ["tasks=[a,b],[b,c]", "seed=0,1,2,3,4"]
    assert [text for text in line[5:-2] if not text.startswith("outputs=")] == [
        "dataset.seed=${seed}"
    ]


# -- runs of groups --------------------------------------------------------------------------------


def pairs(write_run: "WriteRun", *seeds: int) -> Path:
    for seed in seeds:
        single_task(write_run, seed)
        trained(write_run, "ab", (4 + seed, 2 - seed), seed)
        trained(write_run, "ac", (1, 1), seed)
        folder = trained(write_run, "bc", (-6, 8), seed)
    return folder.parents[1]


def test_pairs_predict_larger_groups_and_are_taken_as_they_are(
    write_run: "WriteRun", capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = pairs(write_run, 0, 1)
    evidence = evidence_below(dataset)
    assert (evidence.source, evidence.seeds) == ("pairs", (0, 1))
    assert evidence.all_in_one == pytest.approx({"a": 2.75, "b": -2.25, "c": 4.5})
    assert evidence.alone == {"a": 0, "b": 0, "c": 0}
    output = " ".join(run_group(dataset, "--budget", 2, capsys=capsys).split())
    grouping = Grouping.read(dataset / "groupings" / "pairs-budget=2.json")
    assert [(g.tasks, g.serves) for g in grouping.groups] == [
        (("a", "b"), ("a", "b")),
        (("b", "c"), ("c",)),
    ]
    assert grouping.value == pytest.approx({"a": 4.5, "b": 1.5, "c": 8})
    assert "one task 0.98, counted as 1" in output
    assert "Against one network a task: +4.67 points of delta_m over tasks" in output
    assert "which is predicted likewise: +3.00 points" in output


def test_groups_that_were_all_trained_are_taken_as_they_are(write_run: "WriteRun") -> None:
    dataset = pairs(write_run, 0)
    primary = {"primary": ["a"], "config": {"tasks": {"of": ["a", "b"], "primary": ["a"]}}}
    trained(write_run, "ab", (90, 90), method="equal,a", **primary)  # not for both alike
    trained(write_run, "abc", (10, -10, 10))
    trained(write_run, "abc", (50, 50, 50), 3)  # a seed that was not trained alone
    evidence = evidence_below(dataset)
    assert evidence.source == "runs"
    assert evidence.all_in_one == pytest.approx({"a": 10, "b": -10, "c": 10})
    (table,) = evidence.candidates
    assert table.values(np.array([False, True, True]))[1:] == pytest.approx([-6, 8])
    assert table.values(np.array([False, True, False]))[1] == 0
    assert evidence.reference.method == "equal"
    assert evidence_below(dataset, "pairs").all_in_one == pytest.approx(
        {"a": 2.5, "b": -2, "c": 4.5}
    )


def test_seeds_that_are_not_everywhere_are_said_and_no_figure_may_be_infinite(
    write_run: "WriteRun",
) -> None:
    dataset = pairs(write_run, 0)
    assert not any("seed" in said for said in evidence_below(dataset).said[1:])
    single_task(write_run, 1)
    trained(write_run, "ab", (0, 0), 1)
    trained(write_run, "ac", (0, 0), 5)
    trained(write_run, "abc", (0, 0, math.inf))
    said = " ".join(evidence_below(dataset, "runs").said)
    assert "Left out, as not every task was trained alone with it: seed 5." in said
    assert "Over fewer seeds than others, so less sure: a+c (seed 0), b+c (seed 0)." in said
    assert "a+b+c: a figure is missing or infinite, left out." in said


def test_networks_of_half_the_operations_cost_half(
    write_run: "WriteRun", capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = pairs(write_run, 0)
    trained(write_run, "abc", (10, -10, 10))
    half = {"config": {"backbone.hidden": [32]}, "forward_flops": 51.0}
    for task in "abc":
        changed = {"tasks": [task], "backbone.hidden": [32]}
        trained(write_run, task, (-1,), method=f"equal,small,{task}", changed=changed, **half)
    output = run_group(dataset, "--budget", 1.5, "--format", "json", capsys=capsys)
    said = json.loads(output)
    assert said["grouping"]["groups"] == [
        {"tasks": [*"abc"], "serves": [*"ac"], "cost": 1.0},
        {"tasks": ["b"], "serves": ["b"], "cost": 0.5, "reference": "../equal,small,b/seed=0"},
    ]
    assert said["grouping"]["value"] == pytest.approx({"a": 10, "b": -1, "c": 10})
    full, small = (shlex.split(line) for line in said["train"])
    assert "tasks=null" in full
    assert {"tasks=[b]", "backbone.hidden=[32]"} <= set(small)
    assert "one task with another backbone 0.51, counted as 0.5" in " ".join(said["said"])
    # What is predicted from pairs stands beside cheaper networks of any tasks, as they are.
    trained(write_run, "abc", (9, 9, 9), method="equal,small", **half)
    (_, halves) = evidence_below(dataset, "pairs").candidates
    assert halves.cost == 0.5
    assert halves.values(np.full(3, True)) == pytest.approx([9, 9, 9])


def test_what_is_missing_is_named_with_the_command_that_makes_it(write_run: "WriteRun") -> None:
    folder = trained(write_run, "abc", (0, 0, 0), changed={"epochs": 30, "optimizer.lr": 0.1})
    dataset = folder.parents[1]
    like = r"mtlrun dataset=digits weighting=equal epochs=30 optimizer.lr=0.1"
    with pytest.raises(UserError, match=rf"trained together \({like} engine.affinity=tag outputs="):
        evidence_below(dataset)
    with pytest.raises(UserError, match=rf"measured the gradient cosine.*{like}"):
        evidence_below(dataset, "cosine")
    trained(write_run, "ab", (0, 0))
    with pytest.raises(UserError, match=r"alone.*epochs=30.*architecture=single_task"):
        evidence_below(dataset)
    trained(write_run, "ab", (0, 0), method="equal,architecture=single_task,tasks=[ab]")
    with pytest.raises(UserError, match=r"not known what the tasks are worth alone"):
        evidence_below(dataset)
    single_task(write_run)
    assert evidence_below(dataset).source == "runs"
    with pytest.raises(UserError, match=r"a\+c, b\+c are missing.*mtlrun \+sweep=pairs"):
        evidence_below(dataset, "pairs")
    for tasks in ("abc", "ab"):
        method = f"mgda,tasks=[{tasks}]"
        trained(write_run, tasks, (0,) * len(tasks), method=method, weighting="mgda")
    with pytest.raises(UserError, match="weighting=equal; weighting=mgda"):
        evidence_below(dataset)


def test_a_slip_of_the_options(write_run: "WriteRun") -> None:
    folder = str(pairs(write_run, 0))
    for arguments, message in (
        (["--budget", "0.7"], "give a multiple of 0.5"),
        (["--budget", "0.5"], "Use --budget 1 or more"),
        (["--budget", "2", "--name", "../x"], "--name ../x: use letters"),
        (["--budget", "2", "--with", "epochs"], "--with epochs: give KEY=VALUE"),
        (["--budget", "2", "-o", folder], "is a folder"),
    ):
        with pytest.raises(UserError) as refused:
            group_command([folder, *arguments, "--no-cache"])
        assert message in str(refused.value)


# -- the command that trains them ------------------------------------------------------------------


def test_the_command_composes_the_settings_of_the_reference_run(
    write_run: "WriteRun", capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        "dataset=nyuv2", "weighting=cagrad", "weighting.c=0.5", "backbone=resnet18",
        "heads=conv", "++heads.of.depth.hidden=7", "dataset.size=[60,80]", "optimizer.lr=0.001",
        "dataset.root='my data/a,b'", "engine.affinity=tag", "engine.affinity_every=3",
        "engine.clip_norm=1e-05", "study=first", "seed=4", "model.freeze=[backbone.1]",
    ]  # fmt: skip
    register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):

        def composed(overrides: Sequence[str]) -> DictConfig:
            return compose("config", overrides=list(overrides), return_hydra_config=True)

        config = composed(given)
        groups, changed = changed_settings(config, config.hydra, composed)
        names = ("segmentation", "depth", "normals")
        folder = write_run(
            "cagrad",
            {name: {"accuracy": 0.5} for name in names},
            seed=4,
            dataset="nyuv2",
            study="first",
            changed={**groups, **changed},
        )
        nested = {"engine": {"affinity": "tag"}, "tasks": None}
        (folder / "config.yaml").write_text(yaml.safe_dump(nested))
        pull = {name[0] + other[0]: float(name != other) for name in names for other in names}
        rows = [f"1,{a},{b},{pull[a[0] + b[0]] - (a == names[2])}" for a in names for b in names]
        (folder / "affinity.csv").write_text("\n".join(["step,source,target,value", *rows]))
        output = run_group(folder.parents[1], "--budget", 2, "--format", "json", capsys=capsys)
        line = shlex.split(json.loads(output)["train"][0])
        assert line[:2] == ["mtlrun", "-m"]
        swept = {"tasks": [], "seed": []}
        fixed = []
        for text in map(with_open_keys, line[2:]):
            override = OverridesParser.create().parse_override(text)
            if override.is_sweep_override():
                swept[override.key_or_group] = list(override.sweep_string_iterator())
            else:
                fixed.append(text)
        assert swept["seed"] == ["0", "1", "2", "4"]
        groupings = json.loads(output)["grouping"]["groups"]
        expected = [f"[{','.join(group['tasks'])}]" for group in groupings]
        assert swept["tasks"] == ["null" if text.count(",") == 2 else text for text in expected]
        ours = plain(composed([*fixed, f"tasks={swept['tasks'][0]}", "seed=4"]))
        wanted = plain(config) | {"engine.affinity": "none", "engine.affinity_every": 10}
        wanted |= {"outputs": str(folder.parents[3]), "tasks": ours["tasks"]}
        assert ours == wanted
