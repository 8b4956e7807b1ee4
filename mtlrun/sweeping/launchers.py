"""Launchers that have each job of a sweep done by a process of its own, here or elsewhere.

The jobs of one launch share nothing: where the process of one is lost, that job alone is, and the
sweeper starts it again. All of them need a file system that the processes share.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from mtlrun.errors import UserError
from mtlrun.sweeping.extra import needed


@dataclass(frozen=True)
class Work:
    """One job, in a form that travels to another process.

    Attributes:
        number: of the job in its sweep.
        overrides: the job's.
        directory: the sweep's working directory.
        threads: CPU threads that the job may use; None leaves it to the process.
    """

    number: int
    overrides: tuple[str, ...]
    context: HydraContext
    config: DictConfig
    function: TaskFunction
    singletons: Any
    directory: Path
    threads: int | None

    def __call__(self) -> JobReturn:
        """Do the job in this process."""
        setup_globals()
        Singleton.set_state(self.singletons)
        os.chdir(self.directory)
        if str(self.directory) not in sys.path:  # parts of the user's own live there
            sys.path.insert(0, str(self.directory))
        if self.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(self.threads)
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

    def work(self, jobs: Sequence[Sequence[str]], first: int, threads: int | None) -> list[Work]:
        """The jobs as they travel."""
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
            )
            for at, overrides in enumerate(jobs)
        ]


class SubmititLauncher(ProcessLauncher):
    """Processes started by submitit: on this machine, or by Slurm.

    Args:
        cluster: ``local`` or ``slurm``.
        folder: where submitit keeps its scripts and the processes' output.
        at_once: local jobs at a time; Slurm has ``slurm_array_parallelism`` in ``parameters``.
        cpus: cores for a job, and the threads that ``engine.threads=auto`` may take.
        gpus: for a job.
        minutes: that a job may take. Slurm then stops it, and it goes on from its checkpoint.
        memory_gb: for a job.
        parameters: further ones of submitit's executor: ``slurm_partition`` and the like.
    """

    def __init__(
        self,
        cluster: str,
        folder: str,
        at_once: int,
        cpus: int,
        gpus: int,
        minutes: int,
        memory_gb: int | None,
        parameters: Mapping[str, Any],
    ) -> None:
        if cluster not in ("local", "slurm"):
            raise UserError(f"hydra.launcher.cluster={cluster}: choose one of local, slurm.")
        if at_once < 1:
            raise UserError(f"hydra.launcher.at_once={at_once}: use 1 or more.")
        self.cluster = cluster
        self.folder = folder
        self.at_once = at_once
        self.cpus = cpus
        self.parameters = {
            "name": "mtlrun",
            "timeout_min": minutes,
            "cpus_per_task": cpus,
            "gpus_per_node": gpus,
            **({} if memory_gb is None else {"mem_gb": memory_gb}),
            **OmegaConf.to_container(OmegaConf.create(dict(parameters))),  # type: ignore[dict-item]
        }

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """See Hydra's ``Launcher``; None for a job whose process is gone."""
        submitit = needed("submitit", "hydra/launcher=submitit")
        executor = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
        executor.update_parameters(**self.parameters)
        waiting = self.work(job_overrides, initial_job_idx, self.cpus)
        if self.cluster == "slurm":
            jobs = executor.map_array(_do, waiting)
        else:
            jobs = self._in_turn(executor, waiting)
        return [_result_of(submitit, job) for job in jobs]

    def _in_turn(self, executor: Any, waiting: Sequence[Work]) -> list[Any]:
        """Start ``at_once`` local processes, and the next one as soon as one ends."""
        jobs: list[Any] = []
        try:
            for work in waiting:
                while sum(not job.done() for job in jobs) >= self.at_once:
                    time.sleep(0.2)
                jobs.append(executor.submit(_do, work))
            while not all(job.done() for job in jobs):
                time.sleep(0.2)
        except BaseException:
            for job in jobs:
                with suppress(OSError):
                    job.cancel(check=False)
            raise
        return jobs


class RayLauncher(ProcessLauncher):
    """Tasks of a Ray cluster: a queue by CPU and GPU, on one machine or many.

    Args:
        init: arguments of ``ray.init``: ``address: auto`` for a cluster that runs, ``num_cpus``
            for one of this machine that is made for the sweep.
        cpus: of a job, and the threads that ``engine.threads=auto`` may take.
        gpus: of a job; half a GPU is 0.5.
        resources: further ones that a job needs, by name.
    """

    def __init__(
        self, init: Mapping[str, Any], cpus: int, gpus: float, resources: Mapping[str, float]
    ) -> None:
        self.init = {key: value for key, value in init.items() if value is not None}
        self.cpus = cpus
        self.gpus = gpus
        self.resources = dict(resources)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """See Hydra's ``Launcher``; None for a job whose process or machine is gone."""
        ray = needed("ray", "hydra/launcher=ray")
        began = not ray.is_initialized()
        if began:
            ray.init(**{"log_to_driver": False, "include_dashboard": False, **self.init})
        remote = ray.remote(
            num_cpus=self.cpus, num_gpus=self.gpus, resources=self.resources, max_retries=0
        )(_do)
        try:
            running = [
                remote.remote(work) for work in self.work(job_overrides, initial_job_idx, self.cpus)
            ]
            return [_of_ray(ray, reference) for reference in running]
        finally:
            if began:
                ray.shutdown()


def _do(work: Work) -> JobReturn:
    return work()


def _result_of(submitit: Any, job: Any) -> JobReturn | None:
    try:
        found: JobReturn = job.result()
    except submitit.core.utils.FailedJobError as error:  # outside of the run, such as an import
        return _failed(error)
    except submitit.core.utils.UncompletedJobError:
        return None
    return found


def _of_ray(ray: Any, reference: Any) -> JobReturn | None:
    try:
        found: JobReturn = ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # outside of the run, such as an import
        return _failed(error)
    except ray.exceptions.RayError:
        return None
    return found


def _failed(error: Exception) -> JobReturn:
    """An error as a job's return; the last line of the traceback that it may carry."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    back = JobReturn(status=JobStatus.FAILED)
    back.return_value = RuntimeError(lines[-1] if lines else type(error).__name__)
    return back
