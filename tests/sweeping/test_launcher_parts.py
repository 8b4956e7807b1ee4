"""Launchers without their processes: turns, devices, what comes back of a job, what is refused."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus

from mtlrun.errors import UserError
from mtlrun.sweeping.launchers import RayLauncher, SubmititLauncher
from mtlrun.sweeping.worker import this_process

OF_SUBMITIT = {"at_once": None, "cpus": 1, "gpus": 0, "minutes": 60, "memory_gb": None}
OF_RAY = {"init": {}, "cpus": 1, "gpus": 0, "resources": {}}


def submitit(folder: Path, cluster: str = "local", **settings: Any) -> SubmititLauncher:
    parameters = settings.pop("parameters", {})
    return SubmititLauncher(
        cluster, str(folder), **{**OF_SUBMITIT, **settings}, parameters=parameters
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster": "lsf"}, "cluster=lsf: choose one of local, slurm."),
        ({"at_once": 0}, "at_once=0: use a whole number from 1 on."),
        ({"minutes": 1.5}, "minutes=1.5: use a whole number from 1 on."),
        ({"gpus": 0.5}, "gpus=0.5: use a whole number from 0 on."),
        ({"gpus": -1}, "gpus=-1: use a whole number from 0 on."),
        ({"memory_gb": 4.0}, "memory_gb has no effect on this machine's own processes"),
        ({"parameters": {"slurm_qos": "x"}}, "parameters.slurm_qos has no effect on this"),
    ],
)
def test_settings_of_submitit_that_are_refused(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        submitit(tmp_path, **settings)
    assert str(refused.value).startswith(f"hydra.launcher.{message}")


@pytest.mark.parametrize("settings", [{"cpus": 0}, {"cpus": 0.5}, {"gpus": -0.5}, {"gpus": "all"}])
def test_settings_of_ray_that_are_refused(settings: dict[str, Any]) -> None:
    ((name, value),) = settings.items()
    with pytest.raises(UserError, match=f"^hydra.launcher.{name}={value}: use a"):
        RayLauncher(**{**OF_RAY, **settings})


def test_slurm_gets_what_was_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    launcher = submitit(
        tmp_path, "slurm", at_once=3, gpus=1, memory_gb=8.0, parameters={"slurm_partition": "gpu"}
    )
    assert launcher.parameters == {
        "name": "mtlrun",
        "timeout_min": 60,
        "cpus_per_task": 1,
        "gpus_per_node": 1,
        "mem_gb": 8.0,
        "slurm_array_parallelism": 3,
        "slurm_partition": "gpu",
    }


class Executor:
    """An executor of submitit's whose jobs end some looks later; what comes back of each is told.

    Args:
        backs: for each job what its result is, or raises.
    """

    def __init__(self, *backs: Any) -> None:
        self.backs = list(backs)
        self.jobs: list[SimpleNamespace] = []
        self.most = 0
        self.places: list[list[int]] = []
        self.works: list[Any] = []
        self._executor = SimpleNamespace(update_parameters=self._place)
        self.blocked: list[bool] = []

    def update_parameters(self, **parameters: Any) -> None: ...

    def _place(self, visible_gpus: list[int]) -> None:
        self.places.append(visible_gpus)

    def submit(self, function: Any, work: Any) -> Any:
        self.blocked.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
        back, looks = self.backs[len(self.jobs)], iter([False] * (1 + len(self.jobs) % 2))
        ended: list[bool] = []

        def done() -> bool:
            if next(looks, True):
                ended.append(True)
            return bool(ended)

        def result() -> Any:
            if isinstance(back, Exception):
                raise back
            return back

        self.works.append(work)
        self.jobs.append(SimpleNamespace(done=done, result=result, ended=ended))
        self.most = max(self.most, sum(not job.ended for job in self.jobs))
        return self.jobs[-1]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A launcher of local processes with a made-up executor."""
    pytest.importorskip("submitit")
    monkeypatch.setattr("mtlrun.sweeping.launchers.time.sleep", lambda seconds: None)

    def make(executor: Executor, **settings: Any) -> SubmititLauncher:
        launcher = submitit(tmp_path / "processes", **settings)
        launcher.hydra_context = launcher.task_function = launcher.config = None
        monkeypatch.setattr(launcher.submitit, "AutoExecutor", lambda **_: executor)
        return launcher

    return make


def launch(launcher: SubmititLauncher, count: int) -> list[Any]:
    return list(launcher.launch([[f"seed={seed}"] for seed in range(count)], initial_job_idx=0))


def test_some_at_a_time_in_their_order(local: Any, tmp_path: Path) -> None:
    backs = [JobReturn(status=JobStatus.COMPLETED) for _ in range(7)]
    executor = Executor(*backs)
    assert launch(local(executor, at_once=3, cpus=2), 7) == backs
    assert executor.most == 3
    assert [work.overrides for work in executor.works] == [(f"seed={n}",) for n in range(7)]
    assert {(work.threads, work.sweep) for work in executor.works} == {(2, this_process())}
    # Ctrl-C is kept from the processes that are started, and from them alone.
    assert executor.blocked == [True] * 7
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    # Nothing is left of processes that ended as they should.
    assert list((tmp_path / "processes").iterdir()) == []


def test_what_comes_back_of_jobs(local: Any, tmp_path: Path) -> None:
    errors = pytest.importorskip("submitit").core.utils
    trace = "Traceback (most recent call last):\n  ...\nModuleNotFoundError: No module 'mine'\n"
    done = JobReturn(status=JobStatus.COMPLETED)
    killed, broken = errors.UncompletedJobError("no output"), errors.FailedJobError(trace)
    found = launch(local(Executor(done, killed, broken)), 3)
    assert found[:2] == [done, None]
    assert found[2].status is JobStatus.FAILED
    with pytest.raises(UserError, match=r"^ModuleNotFoundError: No module 'mine'$"):
        _ = found[2].return_value
    assert len(list((tmp_path / "processes").iterdir())) == 1  # what the lost one said is kept


def test_gpus_are_shared_out(local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that this process may see, by their own numbers; no two jobs have one at a time."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7,8")
    executor = Executor(*[JobReturn(status=JobStatus.COMPLETED)] * 5)
    launch(local(executor, gpus=2, at_once=2), 5)
    assert executor.places[:2] == [[2, 3], [5, 7]]
    assert all(place in ([2, 3], [5, 7]) for place in executor.places)
    assert len(executor.places) == 5
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(UserError, match="need 4 GPUs, and there are 3"):
        launch(local(Executor(), gpus=2, at_once=2), 1)


def test_processes_that_were_started_are_stopped_where_the_sweep_is(
    local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda process, number: killed.append((process, number)))
    executor = Executor(*[JobReturn()] * 2)
    launcher = local(executor)

    def stop(seconds: float) -> None:
        executor.jobs[0].ended.append(True)
        for number, job in enumerate(executor.jobs):
            job.job_id = str(1000 + number)
        raise KeyboardInterrupt

    monkeypatch.setattr("mtlrun.sweeping.launchers.time.sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        launch(launcher, 2)
    assert killed == [(1001, signal.SIGTERM)]


def test_jobs_in_a_queue_go_on_without_their_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    launcher = submitit(tmp_path, "slurm")
    launcher.hydra_context = launcher.task_function = launcher.config = None
    works: list[Any] = []
    done = JobReturn(status=JobStatus.COMPLETED)

    def map_array(function: Any, waiting: list[Any]) -> list[Any]:
        works.extend(waiting)
        return [SimpleNamespace(result=lambda: done) for _ in waiting]

    executor = SimpleNamespace(map_array=map_array, update_parameters=lambda **_: None)
    monkeypatch.setattr(launcher.submitit, "AutoExecutor", lambda **_: executor)
    assert launch(launcher, 2) == [done, done]
    assert [work.sweep for work in works] == ["", ""]  # what SWEEP_PROCESS says of them


def test_what_no_machine_of_a_cluster_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would wait for ever. A cluster elsewhere may get such a machine yet."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # as the launcher sets it
    launcher = RayLauncher(**{**OF_RAY, "cpus": 2, "gpus": 0.5, "resources": {"disk": 1}})
    fits = {"CPU": 2.0, "GPU": 1.0, "disk": 1.0}
    nodes = [
        {"Alive": True, "Resources": {**fits, "GPU": 0.0}},
        {"Alive": True, "Resources": {"GPU": 4.0, "disk": 1.0}},
        {"Alive": False, "Resources": fits},
    ]
    launcher.ray = SimpleNamespace(nodes=lambda: nodes)
    with pytest.raises(UserError, match=r"no machine of the cluster has what a job needs, .*0\.5"):
        launcher._refuse_what_no_machine_has()
    nodes.append({"Alive": True, "Resources": fits})
    launcher._refuse_what_no_machine_has()
