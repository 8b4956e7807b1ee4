"""What the command says to input that is wrong: one paragraph that tells what to do."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from commands import only_run, rows, run_folders

from mtlrun.cli import run_command
from mtlrun.engine import checkpoint
from mtlrun.errors import UserError

Refused = Callable[..., str]

BRIEF = ("epochs=1", "tracking.tensorboard=false")

KNOWN_WEIGHTINGS = "Known: aligned_mtl, auto_lambda, cagrad, "
FILES_OF_MNIST = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.delenv("MTLRUN_DATA", raising=False)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """The paragraph that a command is refused with."""

    def refuse(*arguments: str) -> str:
        assert run_command(list(arguments)) == 1
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        assert printed.startswith("mtlrun: ")
        assert printed.count("\n") == 1
        return printed.removeprefix("mtlrun: ").removesuffix("\n")

    return refuse


def check(message: str, *parts: str) -> None:
    """The message starts with the first part and has the others in it."""
    assert message.startswith(parts[0]), message
    assert all(part in message for part in parts), message


# -- slips on the command line ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("wieghting=equal", ["wieghting: there is no such setting. Did you mean weighting?"]),
        (
            "weighting=gradnrom",
            [
                "weighting=gradnrom: there is no such choice. Did you mean gradnorm?",
                KNOWN_WEIGHTINGS,
            ],
        ),
        ("dataset=digit", ["dataset=digit: there is no such choice. Did you mean digits?"]),
        (
            "tracking.baseline=outputs/equal,epochs=2/seed=0",
            [
                "tracking.baseline=outputs/equal,epochs=2/seed=0: a value with = or the like",
                """'tracking.baseline="outputs/equal,epochs=2/seed=0"'.""",
            ],
        ),
        ("epoch=3", ["epoch: there is no such setting. Did you mean epochs?"]),
        ("batchsize=3", ["batchsize: there is no such setting. Did you mean batch_size?"]),
        ("engin.device=cpu", ["engin.device: there", "Did you mean engine.device?"]),
        ("engine.devic=cpu", ["engine.devic: there", "Did you mean engine.device? engine has acc"]),
        (
            "weighting.alhpa=1 weighting=gradnorm",
            [
                "weighting.alhpa: there is no such setting. Did you mean weighting.alpha?",
                "weighting=gradnorm has alpha, initial_loss, learning_rate.",
            ],
        ),
        ("weighting.alpha=1", ["weighting.alpha: there", "weighting=equal has none."]),
        ("+epoch=3", ["epoch: there is no such setting. Did you mean epochs?"]),
        ("+engine.devic=cpu", ["engine.devic: there", "Did you mean engine.device?"]),
        (
            "+weighting.alpha=2 weighting=mgda",
            [
                "weighting.alpha: MGDA has no such setting.",
                "Known: normalisation, reduction.",
            ],
        ),
        ("+weighting=mgda", ["Multiple values for weighting."]),
        ("~weighting", ["~weighting: every run has a weighting.", "mtlrun list weighting"]),
        ("dataset=null", ["Config group override must be a string"]),
        ("seed=0,1", ["seed=0,1: for a run with each value add -m"]),
        ("hydra/launcher=joblib", ["hydra/launcher=joblib has no effect on a single run: add -m"]),
        ("tasks=digit", ["tasks=digit: give a list, for example tasks="]),
        ("tasks=[digit,pairty]", ["tasks: this dataset has no task pairty. Did you mean parity?"]),
        ("tasks=[ink,ink]", ["tasks names ink twice."]),
        ("tasks=[]", ["tasks=[] leaves nothing to train. Name some of digit, parity, ink"]),
        ("heads.of.digt.x=1", ["heads.of.digt: no such task. Did you mean digit?"]),
        ("heads.of.ink.hidden=3", ["heads.of.ink.hidden: LinearHead has no such setting."]),
        ("epochs=ten", ["epochs=ten: Value 'ten' of type 'str' could not be converted to Integer"]),
        ("epochs=0", ["epochs=0: use 1 or more"]),
        ("seed=-1", ["seed=-1: use 0 or more"]),
        ("select_on=val", ["select_on=val: choose one of validation, test."]),
        ("engine.amp=fp16", ["engine.amp=fp16: choose one of none, bf16."]),
        ("engine.threads=0", ["engine.threads=0: use auto, or a number of threads from 1 on."]),
        ("engine.device=tpu", ["engine.device=tpu: use auto, cpu, cuda or cuda:N."]),
        ("gradients.at=features", ["gradients.at=features: choose one of auto, parameters, "]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_slip(arguments: str, parts: list[str], refused: Refused) -> None:
    check(refused(*arguments.split()), *parts)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(refused: Refused) -> None:
    message = refused("engine.device=cuda")
    check(message, "engine.device=cuda, and torch sees 0 CUDA devices here. Use engine.device=cpu")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("train", "See mtlrun --help."), ("compar", "Did you mean mtlrun compare?")],
)
def test_an_unknown_verb(word: str, hint: str, refused: Refused) -> None:
    verbs = "list, compare, group, report, plot, tensorboard, evaluate, predict, export, data"
    check(refused(word), f"{word} is neither a verb ({verbs}) nor a setting", hint)


def test_verbs_refuse_as_well(refused: Refused) -> None:
    check(refused("list", "wieghting"), "There is no group wieghting. Did you mean weighting?")
    check(refused("compare", "nowhere"), "nowhere is not there.")
    check(refused("data", "prepare", "nyu"), "Use: mtlrun data prepare NAME --from PATH")


# -- sweeps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            "+sweep=weighting",
            ["sweep=weighting: there is no such choice. Did you mean weightings?"],
        ),
        ("-m epochs=1,0", ["epochs=0: use 1 or more"]),
        ("-m seed=0,1 +epoch=3", ["epoch: there is no such setting. Did you mean epochs?"]),
        ("-m weighting=equal,mdga", ["weighting=mdga: there is no such choice. Did you mean mgda"]),
        (
            "weighting=gradnorm weighting.alpha=interval(0,3) -m",
            ["weighting.alpha=interval(0,3): an interval has no end", "hydra/sweeper=optuna"],
        ),
        ("hydra.sweeper.attempts=0 -m seed=0,1", ["hydra.sweeper.attempts=0: use a whole number"]),
        (
            "hydra.sweeper.attemts=1 -m seed=0,1",
            ["hydra.sweeper.attemts: there is no such setting"],
        ),
        ("hydra.sweeper.trials=3", ["hydra.sweeper.trials: there is no such setting."]),
        ("-m hydra/launcher=job", ["hydra/launcher=job: there is no such choice. Did you mean "]),
        (
            "-m seed=0,1 hydra/launcher=submitit hydra.launcher.cluster=lsf",
            ["hydra.launcher.cluster=lsf: choose one of local, slurm."],
        ),
        (
            "-m seed=0,1 hydra/launcher=submitit hydra.launcher.parameters={slurm_partition:a}",
            ["hydra.launcher.parameters.slurm_partition has no effect on this machine's own"],
        ),
        (
            "-m seed=0,1 hydra/launcher=ray hydra.launcher.cpus=half",
            ["hydra.launcher.cpus=half: use a whole number from 1 on."],
        ),
        ("-m hydra/sweeper=optuna seed=0,1", ["hydra/sweeper=optuna has nothing to search."]),
        (
            "-m hydra/sweeper=optuna hydra.sweeper.sampler=grid seed=0",
            ["hydra.sweeper.sampler=grid: choose one of tpe, random, gp, cmaes, qmc."],
        ),
        (
            "-m hydra/sweeper=optuna optimizer.lr=tag(log,interval(0,1))",
            ["optimizer.lr=tag(log,interval(0,1)): an interval needs 0 < low < high"],
        ),
        (
            "-m hydra/sweeper=optuna weighting=equal,gradnorm weighting.alpha=interval(0,3)",
            ["weighting.alpha: there is no such setting.", "weighting=equal has none."],
        ),
        (
            "-m hydra/sweeper=optuna weighting=equal,dwa objective=accuracy",
            ["objective=accuracy: choose one of delta_m, delta_m/over_tasks, or TASK/METRIC."],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_slip_in_a_sweep(arguments: str, parts: list[str], refused: Refused) -> None:
    """It is found before the first job runs."""
    check(refused(*arguments.split()), *parts)
    assert run_folders(Path()) == []


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("optuna", "hydra/sweeper=optuna weighting=equal,dwa"),
        ("submitit", "hydra/launcher=submitit seed=0,1"),
        ("ray", "hydra/launcher=ray seed=0,1"),
    ],
)
def test_a_package_that_is_missing(
    package: str, arguments: str, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    choice = arguments.split()[0]
    message = refused("-m", *arguments.split())
    assert message == f"{choice} needs the package {package}: pip install 'mtlrun[sweep]'."


# -- parts that do not fit -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            "weighting=mgda architecture=single_task",
            [
                "weighting=mgda balances gradients on shared parameters, and "
                "architecture=single_task shares none",
                "Use weighting=equal, or",
            ],
        ),
        (
            "weighting=graddrop gradients.at=representation",
            ["GradDrop combines task gradients entry by entry", "Use gradients.at=parameters."],
        ),
        ("gradients.every=2", ["gradients.every=2 has no effect: Equal balances by the losses"]),
        (
            "weighting=mgda gradients.at=representation engine.accumulate=2",
            ["gradients.at=representation looks at one batch's features", "engine.accumulate=2"],
        ),
        ("heads=conv", ["heads (task digit): ConvHead gives a prediction for", "heads=linear"]),
        ("weighting=uncertainty weighting.form=x", ["weighting (Uncertainty): form='x': choose"]),
        ("backbone.activation=rleu", ["backbone (MLP): activation='rleu' is none of relu, "]),
        ("backbone.hidden=wide", ["backbone (MLP) cannot work with hidden=wide, activation=relu"]),
        ("optimizer.lr=fast", ["optimizer (Adam) cannot work with lr=fast, "]),
        ("optimizer.lr=-1", ["optimizer (Adam): Invalid learning rate: -1"]),
        ("dataset.validation=2", ["dataset (Digits): validation=2: a share of the rows"]),
        ("weighting._target_=my.Own", ["weighting._target_=my.Own: there is no such class."]),
        (
            "optimizer._target_=mtlrun.sampling.joint.Joint",
            ["optimizer.lr: Joint has no such setting."],
        ),
        (
            "sampler._target_=mtlrun.weighting.equal.Equal",
            [
                "sampler._target_=mtlrun.weighting.equal.Equal: Equal does not extend "
                "mtlrun.sampling.base.Sampler."
            ],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parts_that_do_not_fit(arguments: str, parts: list[str], refused: Refused) -> None:
    check(refused(*arguments.split()), *parts)
    assert parts[0] in (only_run(Path()) / "run.log").read_text()


# -- a user's own modules --------------------------------------------------------------------------

RAISES = """
from mtlrun.weighting.base import LossWeighting


class Own(LossWeighting):
    def objective(self, losses):
        return losses[7]
"""


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def f(:", "SyntaxError: invalid syntax (my_module.py, line 1)."),
        ("import nothing", "ModuleNotFoundError: No module named 'nothing'."),
    ],
)
def test_a_module_that_cannot_be_imported(source: str, error: str, refused: Refused) -> None:
    Path("my_module.py").write_text(source)
    message = refused("weighting._target_=my_module.Own")
    check(message, f"weighting._target_=my_module.Own: its module has an error: {error}")


def test_an_error_inside_a_users_own_module(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("my_module.py").write_text(RAISES)
    arguments = ["weighting._target_=my_module.Own", *BRIEF]
    assert run_command(arguments) == 1
    printed = capsys.readouterr().err
    assert "seed=0: IndexError: list index out of range" in printed
    assert "A failed run's run.log says more; HYDRA_FULL_ERROR=1 shows tracebacks." in printed
    log = (only_run(Path()) / "run.log").read_text()
    assert 'my_module.py", line 7, in objective' in log
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(IndexError):
        run_command(arguments)


def test_a_traceback_is_shown_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError, match="leaves nothing to train"):
        run_command(["tasks=[]"])


# -- data ------------------------------------------------------------------------------------------


def test_data_that_is_missing(refused: Refused) -> None:
    message = refused("dataset=multimnist")
    check(message, "MultiMNIST is made from MNIST's four original files")
    check(message, "MultiMNIST", "the folder data/mnist does not exist", "dataset.root=FOLDER")
    message = refused("dataset=nyuv2", "dataset.root=here")
    check(message, "NYUv2 is not at", "here (dataset.root)", "mtlrun data prepare nyuv2 --from")


def test_data_folders_that_are_empty(refused: Refused) -> None:
    Path("empty").mkdir()
    message = refused("dataset=multimnist", "dataset.root=empty")
    check(message, "MultiMNIST", f"the folder empty lacks {FILES_OF_MNIST}")
    message = refused("dataset=nyuv2", "dataset.root=empty")
    check(message, str(Path("empty").resolve()), "is empty: NYUv2 is not there.")


@pytest.mark.data
def test_data_that_is_half_copied(shared_data: Path, refused: Refused) -> None:
    shutil.copytree(shared_data / "mnist", "mnist", copy_function=shutil.copyfile)
    Path("mnist/t10k-labels-idx1-ubyte.gz").unlink()
    message = refused("dataset=multimnist", "dataset.root=mnist")
    check(message, "MultiMNIST", "the folder mnist lacks t10k-labels-idx1-ubyte. Get train-")
    shutil.copy(shared_data / "mnist/t10k-labels-idx1-ubyte.gz", "mnist")
    cut = Path("mnist/train-images-idx3-ubyte.gz")
    cut.write_bytes(cut.read_bytes()[:100_000])
    message = refused("dataset=multimnist", "dataset.root=mnist")
    check(message, f"{cut} is not a whole gzip file", "Copy or download it again.")


# -- runs that go wrong ----------------------------------------------------------------------------


def test_a_loss_that_is_not_finite(refused: Refused) -> None:
    message = refused("optimizer.lr=1e30", *BRIEF)
    check(message, "The loss or gradient of task digit is NaN or infinite at step 2.")
    check(message, "The loss", "Lower optimizer.lr", "engine.on_nonfinite=skip")
    log = (only_run(Path()) / "run.log").read_text()
    assert "ERROR The loss or gradient of task digit" in log
    check(refused("optimizer.lr=1e30", *BRIEF), "The loss or gradient of task digit")


def test_steps_that_are_not_finite_can_be_skipped() -> None:
    arguments = ["optimizer=sgd", "optimizer.lr=1e30", "engine.on_nonfinite=skip", *BRIEF]
    assert run_command(arguments) == 0
    folder = only_run(Path())
    found = json.loads((folder / "result.json").read_text())
    assert found["skipped_steps"] == found["steps"] - 1 > 10
    assert (folder / "run.log").read_text().count("skipped: loss or gradient of task digit") > 10
    assert {row["step"] for row in rows(folder / "losses.csv")} == {"1"}


def test_a_checkpoint_of_another_model(refused: Refused) -> None:
    assert run_command(["backbone.hidden=[8]", *BRIEF]) == 0
    other = only_run(Path())
    target = Path("outputs/default/digits/equal,epochs=1/seed=0")
    shutil.copytree(other / "checkpoints", target / "checkpoints")
    message = refused(*BRIEF)
    where = f"The checkpoint in {target / 'checkpoints'} is not of this run: its"
    check(message, f"{where} model does not fit (Error(s) in loading state_dict")
    check(message, "The checkpoint", "Run with another study=NAME, or delete the run's folder")


def test_a_checkpoint_of_another_version(refused: Refused) -> None:
    assert run_command([*BRIEF]) == 0
    run_folder = only_run(Path())
    (run_folder / "result.json").unlink()
    last = run_folder / "checkpoints" / "last.pt"
    state = checkpoint.read(last)
    del state["ledger"]["conflicts"]
    checkpoint.write(last, state)
    message = refused(*BRIEF)
    check(message, f"The checkpoint in {last.parent} is not of this run: it lacks 'conflicts'")
    check(message, "The checkpoint", "(ledger). A run with other settings, or another version of")


def test_a_folder_that_holds_a_run_with_other_settings(refused: Refused) -> None:
    assert run_command([*BRIEF]) == 0
    folder = only_run(Path())
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.csv")}
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.002", "lr: 0.1"))
    message = refused(*BRIEF)
    check(message, f"{folder} holds a run with other settings: optimizer.lr is 0.1 there and 0.002")
    check(message, str(folder), "Give this run another study=NAME, or move that folder away.")
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.csv")}


def test_a_result_that_is_damaged(refused: Refused) -> None:
    assert run_command([*BRIEF]) == 0
    result = only_run(Path()) / "result.json"
    result.write_text('{"format"')
    check(refused(*BRIEF), f"{result} is damaged", "Delete it to run this run again.")


def test_a_folder_that_cannot_be_written(refused: Refused) -> None:
    Path("outputs").write_text("a file")
    check(refused(*BRIEF), "[Errno", "outputs/default")
    assert run_folders(Path()) == []
