"""The set-up scripts, run against stand-ins for Python and pip; and the wheel, for real."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
NEEDED = ("bash", "cksum", "grep", "head", "readlink", "rm", "sed", "tail", "tee")
FOR_THE_STAND_IN = ("chmod", "cp", "mkdir", "sleep")

PYTHON = """#!/bin/bash
# Stands in for Python: knows its version, makes a venv of itself, and keeps a list of what pip is
# asked for. All else goes to the real one.
case "$1 $2" in
  "-c "*version_info*) echo "${STUB_VERSION:-3.11.7}" ;;
  "-c "*ensurepip*) exit "${STUB_NO_VENV:-0}" ;;
  "-c import pip") ;;
  "-m venv")
    folder=${!#}
    [[ $3 != --clear ]] || rm -rf "$folder"
    mkdir -p "$folder/bin"
    cp "$0" "$folder/bin/python"
    echo "venv ${*:3}" >>"$STUB_CALLS"
    ;;
  "-m pip")
    echo "pip $*" >>"$STUB_CALLS"
    [[ -z ${STUB_PIP_SLEEP:-} ]] || sleep "$STUB_PIP_SLEEP"
    if [[ -n ${STUB_PIP_FAILS:-} ]]; then
      echo "$STUB_PIP_FAILS" >&2
      exit 1
    fi
    echo "Collecting torch>=2.8 (from mtlrun)"
    echo "Collecting hydra-core<1.4,>=1.3.8 (from mtlrun)"
    echo "Installing collected packages: torch, hydra-core"
    for tool in mtlrun ruff mypy pytest; do
      printf '#!/bin/bash\\necho "%s in $PWD:$(printf " <%%s>" "$@")"\\n%s\\n' $tool \\
        '[[ " ${STUB_FAILING:-} " != *" ${0##*/} "* ]]' >"${0%/*}/$tool"
      chmod +x "${0%/*}/$tool"
    done
    ;;
  *) exec "$STUB_REAL_PYTHON" "$@" ;;
esac
"""


class Checkout:
    """A copy of the scripts with a PATH that has a stand-in for Python and nothing to spare."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("mtlrun", "test", "environment.sh", "constraints.txt"):
            shutil.copy(REPOSITORY / "scripts" / name, self.root / "scripts" / name)
        (self.root / "pyproject.toml").write_text("[project]\n")
        self.path = folder / "path"
        self.path.mkdir()
        for tool in NEEDED + FOR_THE_STAND_IN:
            found = shutil.which(tool)
            assert found, f"this machine has no {tool}"
            (self.path / tool).symlink_to(found)
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self.calls_file = folder / "calls"
        self.add_python("python3")

    def add_python(self, name: str) -> Path:
        python = self.path / name
        python.write_text(PYTHON)
        python.chmod(0o755)
        return python

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        return {
            "PATH": str(self.path),
            "HOME": str(self.elsewhere),
            "STUB_CALLS": str(self.calls_file),
            "STUB_REAL_PYTHON": sys.executable,
            **settings,
        }

    def start(self, script: str, *arguments: str, **settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.root / "scripts" / script, *arguments],
            cwd=self.elsewhere,
            env=self.environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, script: str, *arguments: str, **settings: str) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        process = self.start(script, *arguments, **settings)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def calls(self) -> list[str]:
        """What the stand-in has been asked for since the last time: ``venv ...``, ``pip ...``."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def kinds(calls: list[str]) -> list[str]:
    return [call.split()[0] for call in calls]


def test_first_use_installs_and_the_second_is_quiet(checkout: Checkout) -> None:
    code, output, errors = checkout.run("mtlrun", "list", "weighting")
    assert code == 0
    assert output == f"mtlrun in {checkout.elsewhere}: <list> <weighting>\n"
    assert "collecting torch hydra-core\n" in errors
    venv, pip = checkout.calls()
    assert venv == f"venv {checkout.root}/.venv"
    assert f"--constraint {checkout.root}/scripts/constraints.txt" in pip
    assert pip.endswith(f"--editable {checkout.root}[data,plots,sweep,export]")

    assert checkout.run("mtlrun", "two words", "") == (
        0,
        f"mtlrun in {checkout.elsewhere}: <two words> <>\n",
        "",
    )
    assert checkout.calls() == []


def test_exit_code_is_mtlruns(checkout: Checkout) -> None:
    assert checkout.run("mtlrun", STUB_FAILING="mtlrun")[0] == 1


@pytest.mark.parametrize("name", ["pyproject.toml", "scripts/constraints.txt"])
def test_a_changed_file_installs_again(checkout: Checkout, name: str) -> None:
    checkout.run("mtlrun")
    checkout.calls()
    file = checkout.root / name
    before = file.stat()
    file.write_text(file.read_text() + "# changed\n")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # content counts, not the time
    checkout.run("mtlrun")
    assert kinds(checkout.calls()) == ["pip"]
    checkout.run("mtlrun")
    assert checkout.calls() == []


def test_a_touched_file_does_not(checkout: Checkout) -> None:
    checkout.run("mtlrun")
    checkout.calls()
    (checkout.root / "pyproject.toml").touch()
    checkout.run("mtlrun")
    assert checkout.calls() == []


def test_the_script_works_through_a_link(checkout: Checkout) -> None:
    link = checkout.path / "mtlrun"
    link.symlink_to(checkout.root / "scripts" / "mtlrun")
    result = subprocess.run(
        ["mtlrun"],
        cwd=checkout.elsewhere,
        env=checkout.environment({}),
        executable=link,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == f"mtlrun in {checkout.elsewhere}: <>\n"


def test_a_moved_checkout_makes_its_venv_anew(checkout: Checkout) -> None:
    checkout.run("mtlrun")
    checkout.calls()
    checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    assert checkout.run("mtlrun")[0] == 0
    assert checkout.calls()[0] == f"venv --clear {checkout.root}/.venv"


def test_a_venv_whose_python_is_gone_is_made_anew(checkout: Checkout) -> None:
    checkout.run("mtlrun")
    checkout.calls()
    python = checkout.root / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python3.11")
    assert checkout.run("mtlrun")[0] == 0
    assert kinds(checkout.calls()) == ["venv", "pip"]


def test_too_old_a_python_is_one_sentence(checkout: Checkout) -> None:
    code, output, errors = checkout.run("mtlrun", STUB_VERSION="3.9.2")
    assert (code, output) == (1, "")
    assert errors == (
        f"mtlrun: needs Python 3.11 or newer, and {checkout.path}/python3 is Python 3.9.2: "
        "install a newer one, or name it, as in PYTHON=/path/to/python3.11 "
        f"{checkout.root}/scripts/mtlrun.\n"
    )
    assert not (checkout.root / ".venv").exists()


def test_no_python_is_one_sentence(checkout: Checkout) -> None:
    (checkout.path / "python3").unlink()
    code, _, errors = checkout.run("mtlrun")
    assert code == 1
    assert errors.startswith(
        "mtlrun: needs Python 3.11 or newer, and there is no Python on the PATH: "
    )
    assert errors.count("\n") == 1


def test_a_newer_python_beside_an_old_one_is_found(checkout: Checkout) -> None:
    old = checkout.path / "python3"
    old.write_text("#!/bin/bash\necho 3.9.2\n")
    broken = checkout.path / "python3.11"  # as pyenv leaves them for versions not in use
    broken.write_text("#!/bin/bash\necho 'not installed' >&2\nexit 127\n")
    broken.chmod(0o755)
    checkout.add_python("python3.12")
    assert checkout.run("mtlrun")[0] == 0


def test_the_python_named_is_used_or_refused(checkout: Checkout) -> None:
    code, _, errors = checkout.run("mtlrun", PYTHON="/nowhere/python")
    assert code == 1
    assert "PYTHON=/nowhere/python does not run as a Python" in errors
    old = checkout.path / "old"
    old.write_text("#!/bin/bash\necho 3.10.1\n")
    old.chmod(0o755)
    code, _, errors = checkout.run("mtlrun", PYTHON=str(old))
    assert code == 1
    assert f"PYTHON={old} is Python 3.10.1" in errors
    other = checkout.add_python("other").rename(checkout.elsewhere / "other")
    (checkout.path / "python3").unlink()
    assert checkout.run("mtlrun", PYTHON=str(other))[0] == 0


def test_a_missing_venv_module_is_one_sentence(checkout: Checkout) -> None:
    code, _, errors = checkout.run("mtlrun", STUB_NO_VENV="1")
    assert code == 1
    assert errors.startswith("mtlrun: python3 has no venv module: install it (Debian")
    assert errors.count("\n") == 1


def test_no_network_is_one_sentence_and_the_next_start_tries_again(checkout: Checkout) -> None:
    words = (
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...: "
        "Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')'\n"
        "ERROR: No matching distribution found for hatchling>=1.25"
    )
    code, output, errors = checkout.run("mtlrun", STUB_PIP_FAILS=words)
    assert (code, output) == (1, "")
    log = checkout.root / ".venv" / "install.log"
    assert errors.splitlines()[-1] == (
        "mtlrun: pip cannot reach its package index: check the network or the proxy and start "
        f"again (pip's own words are in {log})."
    )
    assert "hatchling" not in errors
    assert log.read_text() == f"{words}\n"
    checkout.calls()
    assert checkout.run("mtlrun")[0] == 0
    assert kinds(checkout.calls()) == ["pip"]


def test_another_failure_of_pip_shows_its_last_lines(checkout: Checkout) -> None:
    words = "\n".join(f"line {number}" for number in range(9))
    code, _, errors = checkout.run("mtlrun", STUB_PIP_FAILS=words)
    assert code == 1
    *_, fourth, fifth, last = errors.splitlines()
    assert (fourth, fifth) == ("  line 7", "  line 8")
    assert last.endswith(f"all of its output is in {checkout.root}/.venv/install.log.")
    assert "line 3" not in errors
    words = f"  ERROR: No space left on device\n{words}"
    *_, shown, last = checkout.run("mtlrun", STUB_PIP_FAILS=words)[2].splitlines()
    assert shown == "  ERROR: No space left on device"


def test_two_starts_at_once_install_once(checkout: Checkout) -> None:
    processes = [checkout.start("mtlrun", STUB_PIP_SLEEP="1") for _ in range(2)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert all(output.startswith("mtlrun in ") for output, _ in results)
    assert kinds(checkout.calls()) == ["venv", "pip"]
    assert sum("waiting for another start" in errors for _, errors in results) == 1


def test_an_interrupted_installation_is_done_again(checkout: Checkout) -> None:
    process = checkout.start("mtlrun", STUB_PIP_SLEEP="30")
    deadline = time.monotonic() + 30
    while "pip" not in kinds(checkout.calls()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert checkout.run("mtlrun")[0] == 0
    assert "pip" in kinds(checkout.calls())


def test_test_runs_all_checks_and_passes_arguments_to_pytest(checkout: Checkout) -> None:
    code, output, _ = checkout.run("test", "-k", "two words")
    assert code == 0
    assert checkout.calls()[1].endswith(f"--editable {checkout.root}[dev]")
    headings = [line for line in output.splitlines() if line.startswith("== ")]
    assert headings == [
        "== ruff check .",
        "== ruff format --check .",
        "== mypy",
        "== pytest -n 2 --dist worksteal -k two words",
    ]
    given = "<-n> <2> <--dist> <worksteal> <-k> <two words>"
    assert f"pytest in {checkout.root}: {given}" in output
    assert output.endswith("All passed.\n")
    assert checkout.run("test")[2] == ""
    checkout.run("mtlrun")  # what the tests need has all that mtlrun needs
    assert checkout.calls() == []


def test_tests_need_more_than_mtlrun(checkout: Checkout) -> None:
    checkout.run("mtlrun")
    checkout.calls()
    checkout.run("test")
    assert kinds(checkout.calls()) == ["pip"]


def test_a_failing_check_does_not_stop_the_others(checkout: Checkout) -> None:
    code, output, errors = checkout.run("test", STUB_FAILING="ruff mypy")
    assert code == 1
    assert "pytest in" in output
    assert errors.endswith("Failed: ruff ruff mypy\n")


def test_in_ci_real_data_that_is_there_must_be_tested(checkout: Checkout) -> None:
    assert "--require-data" not in checkout.run("test", CI="true")[1]
    (checkout.root.parent / "shared" / "data").mkdir(parents=True)
    assert "--require-data" not in checkout.run("test")[1]
    assert "<-n> <2> <--dist> <worksteal> <--require-data>" in checkout.run("test", CI="true")[1]


@pytest.mark.slow
def test_the_wheel_runs_from_an_empty_folder(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    for folder in ("configs", "mtlrun"):
        for file in (REPOSITORY / folder).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                name = file.relative_to(REPOSITORY).as_posix()
                assert (f"mtlrun/{name}" if folder == "configs" else name) in packed

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = ["install", "--no-index", "--no-deps", "--disable-pip-version-check", wheel]
    pip = [sys.executable, "-m", "pip", "--python", python, *install]
    subprocess.run(pip, check=True, capture_output=True)
    # The dependencies are those that are installed here; a .pth file adds them behind the wheel.
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    here = next(path for path in sys.path if Path(path, "hydra").is_dir())
    (site / "dependencies.pth").write_text(f"{here}\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    settings = {**os.environ, "PYTHONPATH": ""}
    where = [python, "-c", "import mtlrun; print(mtlrun.__file__)"]
    for command, expected in (
        (where, f"{site}/mtlrun/__init__.py"),
        ([python.parent / "mtlrun", "list", "weighting"], "gradnorm"),
    ):
        result = subprocess.run(command, cwd=empty, env=settings, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout
    assert not list(empty.iterdir())
