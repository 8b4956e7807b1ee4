"""From a sweep's jobs to their folders, before the first one runs."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from mtlrun.config import WITHOUT_EFFECT, Config, choices_of, typed, validate
from mtlrun.errors import UserError
from mtlrun.sweeping.jobs import Job
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
        # Hydra needs some tenths of a second for a configuration: jobs that differ in their seed
        # alone are composed once.
        alike: dict[tuple[str, ...], list[Job]] = {}
        for job in jobs:
            rest = tuple(text for text in job.overrides if not text.startswith("seed="))
            alike.setdefault(rest, []).append(job)
        whole: dict[tuple[str, ...], Job] = {}
        for group in alike.values():
            whole |= zip((job.overrides for job in group), self._composed(group), strict=True)
        found: dict[Path, Job] = {}
        for job in jobs:
            alone = whole[job.against].folder if job.against else None
            folder = whole[job.overrides].folder
            found.setdefault(folder, replace(whole[job.overrides], alone=alone))
        return list(found.values())

    def _composed(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Jobs that differ in their seed alone, composed."""
        whole = self._load(jobs[0])
        own = _without_hydra(whole)
        # A folder of the user's own may be called after the overrides.
        apart = "hydra" in str(OmegaConf.to_container(whole.hydra.sweep, resolve=False))
        for job in jobs:
            if apart and job is not jobs[0]:
                whole = self._load(job)
                own = _without_hydra(whole)
            for text in job.overrides:
                if text.startswith("seed="):
                    seed = OverridesParser.create().parse_override(text).value()
                    OmegaConf.update(whole, "seed", seed)
                    OmegaConf.update(own, "seed", seed)
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
            refused = run_folder.refusal(folder, asdict(settings), WITHOUT_EFFECT)
            run_folder.finished(folder)
        except UserError as error:  # of a damaged result
            refused = str(error)
        return replace(job, overrides=overrides, folder=folder, refused=refused or "")


def _without_hydra(config: DictConfig) -> DictConfig:
    own = deepcopy(config)
    with open_dict(own):
        del own["hydra"]
    return own
