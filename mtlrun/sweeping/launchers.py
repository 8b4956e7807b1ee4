"""Launchers that have each job of a sweep done by a process of its own, here or elsewhere.

The jobs of one launch share nothing: where the process of one is lost, that job alone is, and the
sweeper starts it again. All of them need a file system that the processes share.
"""

import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from mtlrun.errors import UserError
from mtlrun.sweeping.extra import needed
from mtlrun.sweeping.stopping import SIGNALS
from mtlrun.sweeping.sweeper import at_least_one
from mtlrun.sweeping.worker import SWEEP_PROCESS, this_process


@dataclass(frozen=True)
class Work:
    """One job, in a form that travels to another process.

    Attributes:
        number: of the job in its sweep.
        overrides: the job's.
        directory: the sweep's working directory.
        threads: CPU threads that the job may use.
        sweep: what ``SWEEP_PROCESS`` says of the sweep.
    """

    number: int
    overrides: tuple[str, ...]
    context: HydraContext
    config: DictConfig
    function: TaskFunction
    singletons: Any
    directory: Path
    threads: int
    sweep: str

    def __call__(self) -> JobReturn:
        """Do the job in this process."""
        setup_globals()
        Singleton.set_state(self.singletons)
        os.chdir(self.directory)
        if str(self.directory) not in sys.path:  # parts of the user's own live there
            sys.path.insert(0, str(self.directory))
        os.environ["OMP_NUM_THREADS"] = str(self.threads)
        os.environ[SWEEP_PROCESS] = self.sweep
        config = self.context.config_loader.load_sweep_config(self.config, list(self.overrides))
        with open_dict(config):
            config.hydra.job.id = str(self.number)
            config.hydra.job.num = self.number
        HydraConfig.instance().set_config(config)
        return run_job(
            hydra_context=self.context,
            task_function=self.function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )


class ProcessLauncher(Launcher):
    """What launchers with a process for each job have in common."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """See Hydra's ``Launcher``."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def close(self) -> None:
        """The sweep is over."""

    def work(
        self,
        jobs: Sequence[Sequence[str]],
        first: int,
        threads: int,
        sweep: str,
    ) -> list[Work]:
        """The jobs as they travel; see :class:`Work`."""
        setup_globals()
        state = Singleton.get_state()
        return [
            Work(
                first + at,
                tuple(overrides),
                self.hydra_context,
                self.config,
                self.task_function,
                state,
                Path.cwd(),
                threads,
                sweep,
            )
            for at, overrides in enumerate(jobs)
        ]


class SubmititLauncher(ProcessLauncher):
    """Processes started by submitit: on this machine, or by Slurm.

    Args:
        cluster: ``local`` or ``slurm``.
        folder: where submitit keeps its scripts and the processes' output while they are needed.
        at_once: jobs at a time; None for 2 here, and as many as Slurm grants there.
        cpus: cores for a job, and the threads that ``engine.threads=auto`` may take.
        gpus: for a job; without any it sees none. Local jobs share out those of this machine.
        minutes: that a job may take. Then it is stopped, and goes on from its checkpoint.
        memory_gb: for a job; Slurm alone sees to it.
        parameters: further ones of submitit's executor: ``slurm_partition`` and the like.
    """

    def __init__(
        self,
        cluster: str,
        folder: str,
        at_once: int | None,
        cpus: int,
        gpus: int,
        minutes: int,
        memory_gb: float | None,
        parameters: Mapping[str, Any],
    ) -> None:
        if cluster not in ("local", "slurm"):
            raise UserError(f"hydra.launcher.cluster={cluster}: choose one of local, slurm.")
        numbers = {"at_once": 1 if at_once is None else at_once, "cpus": cpus, "minutes": minutes}
        for name, number in numbers.items():
            at_least_one(f"hydra.launcher.{name}", number)
        if not isinstance(gpus, int) or gpus < 0:
            raise UserError(f"hydra.launcher.gpus={gpus}: use a whole number from 0 on.")
        slurm: dict[str, Any] = {"mem_gb": memory_gb, "slurm_array_parallelism": at_once}
        if cluster == "local":
            _refuse_slurms({"memory_gb": memory_gb, **parameters})
            slurm = {}
        self.submitit = needed("submitit", "hydra/launcher=submitit")
        self.cluster = cluster
        self.folder = Path(folder)
        self.at_once = at_once or 2
        self.cpus = cpus
        self.gpus = gpus
        given = {
            "name": "mtlrun",
            "timeout_min": minutes,
            "cpus_per_task": cpus,
            "gpus_per_node": gpus,
            **slurm,
            **_plain(parameters),
        }
        self.parameters = {key: value for key, value in given.items() if value is not None}

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """See Hydra's ``Launcher``; None for a job whose process is gone."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Files there are named after processes, whose numbers come again: each launch has its own.
        folder = Path(mkdtemp(dir=self.folder, prefix=time.strftime("%Y-%m-%d-")))
        executor = self.submitit.AutoExecutor(folder=str(folder), cluster=self.cluster)
        executor.update_parameters(**self.parameters)
        follows = "" if self.cluster == "slurm" else this_process()
        waiting = self.work(job_overrides, initial_job_idx, self.cpus, follows)
        jobs: list[Any] = []
        try:
            if self.cluster == "slurm":
                jobs += executor.map_array(_do_until_told, waiting)
            else:
                self._start_in_turn(executor, waiting, jobs)
            found = [self._result_of(job) for job in jobs]
        except BaseException:
            for job in jobs:
                self._cancel(job)
            raise
        if all(back is not None for back in found):  # nothing there that anybody would look for
            shutil.rmtree(folder, ignore_errors=True)
        return found

    def _start_in_turn(self, executor: Any, waiting: Sequence[Work], jobs: list[Any]) -> None:
        """Start ``at_once`` local processes, and the next one as soon as one ends."""
        devices = self._devices()
        places: dict[int, Any] = {}
        for work in waiting:
            while len(places) == self.at_once:
                time.sleep(0.2)
                places = {place: job for place, job in places.items() if not job.done()}
            place = min(set(range(self.at_once)) - places.keys())
            if self.gpus:
                of_place = devices[place * self.gpus : (place + 1) * self.gpus]
                executor._executor.update_parameters(visible_gpus=of_place)
            # The processes of a job leave Ctrl-C to the sweep, which asks each to stop.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            try:
                places[place] = executor.submit(_do_until_told, work)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            jobs.append(places[place])
        while not all(job.done() for job in jobs):
            time.sleep(0.2)

    def _devices(self) -> list[int]:
        """Numbers of the GPUs that local jobs share out."""
        if not self.gpus:
            return []
        from torch.cuda import device_count

        shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        numbered = all(name.strip().isdecimal() for name in shown)
        devices = [int(name) for name in shown] if numbered else list(range(device_count()))
        if len(devices) < self.gpus * self.at_once:
            raise UserError(
                f"hydra.launcher.at_once={self.at_once} jobs with hydra.launcher.gpus={self.gpus} "
                f"each need {self.gpus * self.at_once} GPUs, and there are {len(devices)}."
            )
        return devices

    def _cancel(self, job: Any) -> None:
        with suppress(OSError):
            if self.cluster == "slurm":
                job.cancel(check=False)
            elif not job.done():
                os.kill(int(job.job_id), signal.SIGTERM)

    def _result_of(self, job: Any) -> JobReturn | None:
        try:
            found: JobReturn = job.result()
        except self.submitit.core.utils.FailedJobError as error:  # outside of the run: an import
            return _failed(error)
        except self.submitit.core.utils.UncompletedJobError:
            return None
        return found


class RayLauncher(ProcessLauncher):
    """Tasks of a Ray cluster: a queue by CPU and GPU, on one machine or many.

    Args:
        init: arguments of ``ray.init``: ``address: auto`` for a cluster that runs, ``num_cpus``
            for one of this machine that is made for the sweep.
        cpus: of a job, and the threads that ``engine.threads=auto`` may take.
        gpus: of a job, which sees no others; half a GPU is 0.5.
        resources: further ones that a job needs, by name.
    """

    def __init__(
        self, init: Mapping[str, Any], cpus: int, gpus: float, resources: Mapping[str, float]
    ) -> None:
        at_least_one("hydra.launcher.cpus", cpus)
        if not isinstance(gpus, (int, float)) or gpus < 0:
            raise UserError(f"hydra.launcher.gpus={gpus}: use a number from 0 on.")
        # Ray reports its use to its makers unless it is told not to.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self.ray = needed("ray", "hydra/launcher=ray")
        self.init = {key: value for key, value in _plain(init).items() if value is not None}
        self.cpus = cpus
        self.gpus = gpus
        self.resources = _plain(resources)
        self.began = False

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """See Hydra's ``Launcher``; None for a job whose process or machine is gone."""
        if not self.ray.is_initialized():
            self._begin()
        if "address" not in self.init:  # a cluster elsewhere may grow
            self._refuse_what_no_machine_has()
        remote = self.ray.remote(
            num_cpus=self.cpus, num_gpus=self.gpus, resources=self.resources, max_retries=0
        )(_do)
        waiting = self.work(job_overrides, initial_job_idx, self.cpus, this_process())
        return [self._result_of(reference) for reference in [remote.remote(w) for w in waiting]]

    def _begin(self) -> None:
        quiet = {
            "log_to_driver": False,
            "include_dashboard": False,
            "logging_level": logging.ERROR,
        }
        ours = {number: signal.getsignal(number) for number in SIGNALS}
        self.ray.init(**{**quiet, **self.init})
        self.began = True
        for number, handler in ours.items():  # Ray has taken one over
            with suppress(ValueError):  # not in the main thread
                signal.signal(number, handler)

    def close(self) -> None:
        """See :class:`ProcessLauncher`: end what runs, and the cluster that was made here."""
        if self.began:
            self.began = False
            self.ray.shutdown()

    def _refuse_what_no_machine_has(self) -> None:
        """Ray itself would wait for such a machine, and say so in its logs."""
        needs = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        machines = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(all(has.get(k, 0) >= v for k, v in needs.items()) for has in machines):
            raise UserError(
                f"hydra/launcher=ray: no machine of the cluster has what a job needs, {needs}. "
                "Give less in hydra.launcher.cpus, gpus and resources, or more in init."
            )

    def _result_of(self, reference: Any) -> JobReturn | None:
        try:
            found: JobReturn = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # outside of the run: an import
            return _failed(error)
        except self.ray.exceptions.RayError:
            return None
        return found


def _refuse_slurms(settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        if value is not None and (key == "memory_gb" or key.startswith("slurm_")):
            name = key if key == "memory_gb" else f"parameters.{key}"
            raise UserError(
                f"hydra.launcher.{name} has no effect on this machine's own processes: leave it "
                "out, or add hydra.launcher.cluster=slurm."
            )


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    found = OmegaConf.to_container(OmegaConf.create(dict(settings)), resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _do(work: Work) -> JobReturn:
    return work()


def _do_until_told(work: Work) -> JobReturn:
    """Do a job of submitit's, whose signal that time is up means a checkpoint and a new start."""

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        os.kill(os.getpid(), signal.SIGTERM)

    time_is_up = f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"
    signal.signal(getattr(signal, time_is_up), stop)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit has it ignored
    return _do(work)


def _failed(error: Exception) -> JobReturn:
    """An error as a job's return; the last line of the traceback that it may carry."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    back = JobReturn(status=JobStatus.FAILED)
    back.return_value = UserError(lines[-1] if lines else type(error).__name__)
    return back
