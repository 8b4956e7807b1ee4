"""Help, list and version: quick, and without the libraries that are slow to import."""

import subprocess
import sys
from pathlib import Path

import pytest

import mtlrun
from mtlrun.cli import run_command


def run_and_report_imports(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a fresh process, which names on stderr the slow libraries it imported."""
    program = (
        "import sys\n"
        "from mtlrun.cli import run_command\n"
        "try:\n"
        "    code = run_command(sys.argv[1:])\n"
        "except SystemExit as stop:\n"
        "    code = stop.code or 0\n"
        "slow = {'torch', 'pandas', 'numpy', 'scipy', 'sklearn', 'tensorboard'}\n"
        "print(*sorted(slow & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    process = [sys.executable, "-c", program, *arguments]
    return subprocess.run(process, capture_output=True, text=True, check=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--help"],
            [
                "mtlrun -m weighting=equal,mgda seed=0,1,2",
                "weighting: aligned_mtl, auto_lambda",
                "epochs: 40",
                "mtlrun --hydra-help",
            ],
        ),
        (["list"], ["weighting", "gradnorm", "backbone", "resnet18", "dataset", "nyuv2"]),
        (["list", "weighting"], ["gradnorm", "Chen et al., ICML", "losses", "Gramian"]),
        (["--version"], [f"mtlrun {mtlrun.__version__}"]),
    ],
    ids=" ".join,
)
def test_what_needs_no_torch_and_no_pandas(arguments: list[str], words: list[str]) -> None:
    done = run_and_report_imports(*arguments)
    assert done.stderr.strip() == ""
    for word in words:
        assert word in done.stdout


def test_the_module_is_the_command() -> None:
    process = [sys.executable, "-m", "mtlrun", "--version"]
    done = subprocess.run(process, capture_output=True, text=True, check=True)
    assert done.stdout == f"mtlrun {mtlrun.__version__}\n"


def test_output_that_nobody_reads() -> None:
    """``mtlrun --help | true``."""
    process = f"{sys.executable} -m mtlrun --help | true"
    done = subprocess.run(["bash", "-c", process], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_the_composed_configuration_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["dataset=multimnist", "weighting=gradnorm", "--cfg", "job"]) == 0
    shown = capsys.readouterr().out
    assert "_target_: mtlrun.weighting.gradnorm.GradNorm" in shown
    assert "batch_size: 256" in shown
    assert not list(tmp_path.iterdir())
