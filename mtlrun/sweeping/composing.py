"""From a sweep's jobs to their folders, before the first one runs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from mtlrun.config import Config, choices_of, typed, validate, without_effect
from mtlrun.errors import UserError
from mtlrun.overrides import with_task_keys
from mtlrun.sweeping.jobs import Job, as_typed, key_of
from mtlrun.teacher_names import KEY as TEACHERS
from mtlrun.toy.settings import RESULT as TOY_RESULT
from mtlrun.tracking import folder as run_folder


class Composer:
    """Composes a sweep's jobs and checks their settings.

    Args:
        loader: Hydra's.
        sweep: the sweep's own configuration.
    """

    def __init__(self, loader: ConfigLoader, sweep: DictConfig) -> None:
        self.loader = loader
        self.sweep = sweep
        choice = sweep.hydra.runtime.choices.get("sweep")
        # What the sweep's file sets beside its axes is for all of its runs.
        self.common = [f"sweep={choice}"] if choice else []

    def __call__(self, jobs: Sequence[Job]) -> list[Job]:
        """Jobs with their folders; of those that would share one the first.

        Raises:
            UserError, HydraException: a setting is wrong, of whichever job.
        """
        jobs = [_with_task_keys(job) for job in jobs]
        whole = self._whole([job for job in jobs if not job.teachers])
        jobs = [_taught(job, whole) for job in jobs]
        whole |= self._whole([job for job in jobs if job.teachers])
        found: dict[Path, Job] = {}
        for job in jobs:
            alone = whole[job.against].folder if job.against else None
            folder = whole[job.overrides].folder
            found.setdefault(folder, replace(whole[job.overrides], alone=alone))
        return list(found.values())

    def _whole(self, jobs: Sequence[Job]) -> dict[tuple[str, ...], Job]:
        """Each job, by its overrides, with its folder."""
        # Hydra needs some tenths of a second for a configuration: jobs that differ in their seed
        # and tasks alone are composed once.
        alike: dict[tuple[str, ...], list[Job]] = {}
        for job in jobs:
            patched = sorted(filter(None, map(_patched, job.overrides)))
            rest = (*(text for text in job.overrides if not _patched(text)), *patched)
            alike.setdefault(rest, []).append(job)
        whole: dict[tuple[str, ...], Job] = {}
        for group in alike.values():
            whole |= zip((job.overrides for job in group), self._composed(group), strict=True)
        return whole

    def settings(self, overrides: Sequence[str]) -> Config:
        """The settings of a job with some overrides, of whatever values.

        Raises:
            UserError, HydraException: an override is wrong.
        """
        whole = self._load(Job(tuple(overrides), ()))
        return typed(_without_hydra(whole), choices_of(whole.hydra))

    def _composed(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Jobs that differ in their seed and tasks alone, composed."""
        whole = self._load(jobs[0])
        own = _without_hydra(whole)
        _refuse_sweeps(jobs[0], OmegaConf.select(whole, "hydra.sweeper.once") or ())
        # A folder of the user's own may be called after the overrides.
        apart = "hydra" in str(OmegaConf.to_container(whole.hydra.sweep, resolve=False))
        for job in jobs:
            if apart and job is not jobs[0]:
                whole = self._load(job)
                own = _without_hydra(whole)
            for text in job.overrides:
                key = _patched(text)
                if key:
                    value = OverridesParser.create().parse_override(text).value()
                    OmegaConf.update(whole, key, value, merge=False)
                    OmegaConf.update(own, key, value, merge=False)
            folder = Path(str(whole.hydra.sweep.dir)) / str(whole.hydra.sweep.subdir)
            yield self._checked(job, folder, typed(own, choices_of(whole.hydra)))

    def _load(self, job: Job) -> DictConfig:
        return self.loader.load_sweep_config(self.sweep, [*self.common, *job.overrides])

    def _checked(self, job: Job, folder: Path, settings: Config) -> Job:
        validate(settings)
        overrides = (*self.common, *job.overrides)
        if settings.toy is not None:
            return replace(job, overrides=overrides, folder=folder, result=TOY_RESULT)
        try:
            left_out = without_effect(settings.stopping)
            refused = run_folder.refusal(folder, asdict(settings), left_out, asdict(Config()))
            run_folder.finished(folder)
        except UserError as error:  # of a damaged result
            refused = str(error)
        return replace(job, overrides=overrides, folder=folder, refused=refused or "")


def _with_task_keys(job: Job) -> Job:
    def written(overrides: Sequence[str]) -> tuple[str, ...]:
        return tuple(with_task_keys(overrides))

    teachers = job.teachers
    if teachers:
        teachers = replace(teachers, overrides=tuple(map(written, teachers.overrides)))
    return replace(
        job,
        overrides=written(job.overrides),
        against=written(job.against),
        teachers=teachers,
    )


def _taught(job: Job, whole: Mapping[tuple[str, ...], Job]) -> Job:
    """The job with the folders of its teachers, where it has any.

    Teachers of its own seed are named by the folders of their methods, which are the same for all
    seeds: so are the settings and the name of the student.

    Args:
        job: a job.
        whole: its teachers' jobs by their overrides.
    """
    if not job.teachers:
        return job
    folders = [whole[overrides].folder for overrides in job.teachers.overrides]
    by_method = job.teachers.own_seed and all(path.name.startswith("seed=") for path in folders)
    named = list(dict.fromkeys(str(path.parent if by_method else path) for path in folders))
    return replace(
        job,
        overrides=(*job.overrides, as_typed(TEACHERS, [named])),
        needs=tuple(folders),
    )


def _refuse_sweeps(job: Job, once: Collection[str]) -> None:
    """A choice that is a sweep of its own cannot be one of the values that a sweep goes through."""
    for text in job.overrides:
        if key_of(text) in once:
            raise UserError(f"{text} is a sweep itself, and no run: give it alone, without others.")


def _patched(override: str) -> str | None:
    """The key of an override that needs no composing; None for any other."""
    key, _, value = override.partition("=")
    # What a mapping leaves out another override may say.
    return key if key == "seed" or (key == "tasks" and not value.startswith("{")) else None


def _without_hydra(config: DictConfig) -> DictConfig:
    own = deepcopy(config)
    with open_dict(own):
        del own["hydra"]
    return own
