"""Chains of teachers and students: which runs, what they are called, in which order they run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from sweep_folders import FakeLauncher, done, failed, write_run

from mtlrun.cli import run_command
from mtlrun.config import method_name
from mtlrun.errors import UserError
from mtlrun.sweeping.chain import check_free, of_teachers, with_teachers
from mtlrun.sweeping.composing import _taught
from mtlrun.sweeping.grid import GridSweeper
from mtlrun.sweeping.jobs import Axis, Job, Teachers, axes, expand
from mtlrun.sweeping.stopping import StopSweep
from mtlrun.sweeping.sweeper import JobSweeper
from mtlrun.sweeping.watch import Watch
from mtlrun.teacher_names import teachers_identity, teachers_text

ALONE = ("weighting=equal", "architecture=single_task")
APART = "equal,architecture=single_task"


def typed(*arguments: str) -> list[Axis]:
    return axes(OverridesParser.create().parse_overrides(list(arguments)))


# -- which runs ------------------------------------------------------------------------------------


def test_each_student_comes_after_its_teachers_with_them_and_without() -> None:
    given = typed("seed=0,1", "epochs=2", "weighting=mgda", "distill.temperature=1,4")
    jobs = with_teachers(expand([], given, ALONE), typed(*ALONE, "epochs=9"))
    expected = []
    for seed in (0, 1):
        base = f"seed={seed} epochs=2"
        teacher = (f"seed={seed}", *ALONE, "epochs=9")
        expected += [
            (f"{base} {' '.join(ALONE)}", None),
            (" ".join(teacher), None),
            (f"{base} weighting=mgda", None),
            *(
                (f"{base} weighting=mgda distill.temperature={t}", Teachers((teacher,), True))
                for t in (1, 4)
            ),
        ]
    assert [(" ".join(job.overrides), job.teachers) for job in jobs] == expected
    assert [job.baseline for job in jobs] == [True, False, False, False, False] * 2
    assert all(job.against == jobs[at - at % 5].overrides for at, job in enumerate(jobs) if at % 5)
    assert [job.name for job in jobs[1:4]] == [
        f"seed=0 {' '.join(ALONE)} epochs=9",
        "seed=0",
        f"seed=0 distill.temperature=1 distill.teachers={','.join(ALONE)},epochs=9",
    ]


def test_teachers_of_several_seeds_are_the_same_for_every_student() -> None:
    jobs = with_teachers(expand([], typed("seed=0,1"), ALONE), typed(*ALONE, "seed=1,2"))
    written = [" ".join(job.overrides) for job in jobs]
    alone = " ".join(ALONE)
    # The first one's second teacher is the second one's baseline as well: one folder.
    assert written == [
        f"seed=0 {alone}",
        f"{alone} seed=1",
        f"{alone} seed=2",
        "seed=0",
        "seed=0",
        f"seed=1 {alone}",
        "seed=1",
        "seed=1",
    ]
    (first, second) = (job.teachers for job in jobs if job.teachers)
    assert first == second == Teachers(((*ALONE, "seed=1"), (*ALONE, "seed=2")), own_seed=False)


@pytest.mark.parametrize(
    ("settings", "overrides"),
    [
        (None, []),
        ({}, []),
        ({"architecture": "mtan"}, ["architecture=mtan"]),
        ({"backbone": {"hidden": [[8, 8]]}, "seed": [0, 1]}, ["backbone.hidden=[8,8]", "seed=0,1"]),
    ],
)
def test_what_teachers_have_otherwise(settings: Any, overrides: list[str]) -> None:
    assert of_teachers(OmegaConf.create(settings) if settings else settings) == overrides


def test_teachers_that_there_cannot_be() -> None:
    with pytest.raises(UserError, match=r"hydra\.sweeper\.teachers=mtan: give .* key by key"):
        of_teachers("mtan")
    with pytest.raises(UserError, match=r"distill\.teachers is what this sweep sets itself"):
        check_free(typed("seed=0", "distill.teachers=[a]"))
    with pytest.raises(UserError, match="students of teachers: give one of them"):
        GridSweeper({}, {}, [], groups="pairs", teachers={"architecture": "mtan"})


# -- what they are called --------------------------------------------------------------------------


def test_a_student_is_called_after_what_its_teachers_have_otherwise() -> None:
    changed = {"distill.teachers": [f"outputs/a/digits/{APART},epochs=3"], "epochs": 3}
    name = method_name("mgda", {}, changed)
    assert name == "mgda,distill.teachers=[equal_architecture_single_task]-140998,epochs=3"
    several = {"distill.teachers": [f"o/a/digits/{APART}/seed={seed}" for seed in range(3)]}
    assert "=[3_of_equal_architecture_single_task]-" in method_name("equal", {}, several)
    other = {"distill.teachers": [f"o/b/digits/{APART}/seed={seed}" for seed in range(3)]}
    assert method_name("equal", {}, several) != method_name("equal", {}, other)


def test_teachers_in_words_and_what_makes_them_the_same() -> None:
    assert teachers_text(["o/a/digits/x,epochs=2", "o/a/digits/y,epochs=2"], ["epochs=2"]) == (
        "[x, y]"
    )
    method, run = "outputs/a/digits/x", "outputs/a/digits/x/seed=3"
    assert teachers_identity([method]) == teachers_identity(["/else/b/digits/x"]) == "digits/x"
    assert teachers_identity([run]) == teachers_identity([run[:-1] + "0"]) == "digits/x/seed=*"
    assert len({teachers_identity([run] * count) for count in range(1, 4)}) == 3


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Job]]:
    """The jobs that ``mtlrun +experiment=distill`` makes with some arguments; nothing runs."""
    monkeypatch.chdir(tmp_path)
    jobs: list[Job] = []

    def only_compose(self: GridSweeper, arguments: list[str]) -> None:
        jobs.extend(self.jobs(arguments))

    monkeypatch.setattr(GridSweeper, "sweep", only_compose)

    def composed(*arguments: str) -> list[Job]:
        jobs.clear()
        assert run_command(["+experiment=distill", *arguments]) == 0
        return list(jobs)

    return composed


def test_its_teachers_and_plain_students_are_runs_as_from_any_sweep(
    chain: Callable[..., list[Job]],
) -> None:
    jobs = chain("study=a", "architecture=mtan", "distill.weight=1")
    names = [str(job.folder.relative_to("outputs/a/digits")) for job in jobs]
    taught = method_name(
        "equal",
        {"architecture": "mtan"},
        {"distill.teachers": [f"outputs/a/digits/{APART}"], "distill.weight": 1.0},
    )
    assert names == [
        f"{method}/seed={seed}"
        for seed in (0, 1, 2)
        for method in (APART, "equal,architecture=mtan", taught)
    ]
    for teacher, plain, student in zip(*[iter(jobs)] * 3, strict=True):
        assert (teacher.alone, plain.alone, student.alone) == (None, *[teacher.folder] * 2)
        assert (teacher.needs, plain.needs, student.needs) == ((), (), (teacher.folder,))
    # What a student's job is given is read as it was meant, and the same for all seeds.
    (override,) = {job.overrides[-1] for job in jobs if job.needs}
    assert OverridesParser.create().parse_override(override).value() == [
        f"outputs/a/digits/{APART}"
    ]


def test_teachers_of_given_seeds_are_named_one_by_one() -> None:
    method = Path(f"outputs/default/digits/{APART}")
    runs = {
        (*ALONE, f"seed={seed}"): Job((), (), folder=method / f"seed={seed}") for seed in (0, 1)
    }
    folders = tuple(job.folder for job in runs.values())
    for own_seed, named in ((False, [str(folder) for folder in folders]), (True, [str(method)])):
        job = _taught(Job(("seed=0",), (), teachers=Teachers(tuple(runs), own_seed)), runs)
        assert job.needs == folders
        override = OverridesParser.create().parse_override(job.overrides[-1])
        assert (override.get_key_element(), override.value()) == ("distill.teachers", named)
    elsewhere = {key: Job((), (), folder=Path("runs/of/mine")) for key in runs}
    job = _taught(Job((), (), teachers=Teachers(tuple(runs), own_seed=True)), elsewhere)
    assert job.overrides == ("distill.teachers=[runs/of/mine]",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("-m experiment=distill,toy", "experiment=distill is a sweep itself, and no run"),
        (
            "distill.teachers=[outputs/a/digits/equal,architecture=single_task]",
            """: 'distill.teachers=["outputs/a/digits/equal,architecture=single_task"]'.""",
        ),
    ],
)
def test_slips_on_the_command_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(arguments.split()) == 1
    assert message in capsys.readouterr().err


# -- in which order --------------------------------------------------------------------------------


class Chain(JobSweeper):
    """Two teachers, a and b, a job apart, and of each teacher a student, A and B."""

    def __init__(self, folder: Path, *launches: Any) -> None:
        super().__init__(attempts=2)
        needs = {"A": (folder / "a",), "B": (folder / "b",)}
        self.jobs = [
            Job((name,), (("job", name),), folder=folder / name, needs=needs.get(name, ()))
            for name in "aAbBx"
        ]
        self.launcher = self.fake = FakeLauncher(*launches)
        self.stopping = StopSweep(lambda: [])
        self.config = OmegaConf.create({"hydra": {"runtime": {"choices": {}}}})

    def sweep(self, arguments: list[str]) -> dict[str, str]:
        """For each failed job its reason."""
        watch = Watch(self.jobs, "none")
        failures = self.run_all(self.jobs, watch)
        assert watch.failures == {failure.job.folder: failure.reason for failure in failures}
        return {failure.job.folder.name: failure.reason for failure in failures}


@pytest.fixture
def finish(tmp_path: Path) -> Callable[[Sequence[str]], list[Any]]:
    def write(names: Sequence[str]) -> list[Any]:
        for name in names:
            write_run(tmp_path / name, [{"a": {"accuracy": 0.5}}])
        return [done() for _ in names]

    return write


def test_students_wait_and_what_is_done_is_not_done_again(tmp_path: Path, finish: Any) -> None:
    chain = Chain(tmp_path, finish)
    assert chain.sweep([]) == {}
    assert chain.fake.asked == [["a", "b", "x"], ["A", "B"]]
    assert chain.sweep([]) == {}
    (tmp_path / "B" / "result.json").unlink()
    assert chain.sweep([]) == {}
    assert chain.fake.asked[2:] == [["B"]]


def test_a_teacher_that_fails_takes_its_student_with_it_and_nobody_else(
    tmp_path: Path, finish: Any
) -> None:
    def launch(jobs: list[str]) -> list[Any]:
        finish([job for job in jobs if job != "a"])
        return [failed(UserError("no data.\nMore.")) if job == "a" else done() for job in jobs]

    chain = Chain(tmp_path, launch)
    why = f"it needs {tmp_path.name}/a, which failed"
    assert chain.sweep([]) == {"a": "no data.", "A": why}
    assert chain.fake.asked == [["a", "b", "x"], ["B"]]


def test_a_teacher_with_other_settings_teaches_nobody(tmp_path: Path, finish: Any) -> None:
    """Its folder has a result, of another run."""
    finish("ax")
    chain = Chain(tmp_path, finish)
    chain.jobs[0] = Job(("a",), (), folder=tmp_path / "a", refused="other settings")
    why = f"it needs {tmp_path.name}/a, which failed"
    assert chain.sweep([]) == {"a": "other settings", "A": why}
    assert chain.fake.asked == [["b"], ["B"]]


def test_a_teacher_that_is_lost_is_waited_for(tmp_path: Path, finish: Any) -> None:
    def lose(jobs: list[str]) -> list[Any]:
        return [None if job == "a" else finish(job)[0] for job in jobs]

    chain = Chain(tmp_path, lose, finish)
    assert chain.sweep([]) == {}
    assert chain.fake.asked == [["a", "b", "x"], ["a", "B"], ["A"]]
