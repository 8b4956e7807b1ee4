"""Short names of runs, and a tree of links to their folders that bears these names.

The folder of a run says everything that is special about it, which is too long for the list of runs
at the left of TensorBoard. Among runs that are looked at together, most of that is the same.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

EVENTS = "events.out.tfevents."
CUT = re.compile(r"(.{180})-([0-9a-f]{6})")
"""A name that was too long for a folder: its beginning, and what makes it unique."""


@dataclass(frozen=True)
class Place:
    """Where a run lies: ``<study>/<dataset>/<method>/seed=<n>``, or anywhere.

    Attributes:
        folder: the run folder, resolved.
        root: the folder that it was found below.
    """

    folder: Path
    root: Path

    @property
    def of_a_run(self) -> bool:
        """Whether it is a training run, and no picture of paths or the like."""
        return self.folder.name.startswith("seed=") and len(self.folder.parts) > 4

    @property
    def study(self) -> str:
        """The study; empty where the place is not one of a run."""
        return self.folder.parts[-4] if self.of_a_run else ""

    @property
    def dataset(self) -> str:
        """The dataset; empty where the place is not one of a run."""
        return self.folder.parts[-3] if self.of_a_run else ""

    @property
    def method(self) -> str:
        """The method; for other folders the way there from where they were found."""
        if self.of_a_run:
            return self.folder.parts[-2]
        way = self.folder.relative_to(self.root.resolve()).as_posix()
        return self.folder.name if way == "." else way

    @property
    def seed(self) -> str:
        """``seed=<n>``; empty where the place is not one of a run."""
        return self.folder.name if self.of_a_run else ""

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Weighting and changed settings; without what a cut name has of its last one."""
        cut = CUT.fullmatch(self.method)
        return tuple(cut[1].split(",")[:-1] if cut else self.method.split(","))

    @property
    def whole(self) -> str:
        """A name that leaves nothing out."""
        return "/".join(part for part in (self.study, self.dataset, self.method, self.seed) if part)


def find_places(roots: Sequence[Path]) -> list[Place]:
    """The folders below ``roots`` that have TensorBoard events, each once."""
    found: dict[Path, Place] = {}
    for root in roots:
        for folder, below, files in os.walk(root):
            below.sort()
            if any(name.startswith(EVENTS) for name in files):
                resolved = Path(folder).resolve()
                found.setdefault(resolved, Place(resolved, root))
    return list(found.values())


def name_places(places: Sequence[Place]) -> dict[Path, str]:
    """For each folder a name as short as tells it from the others.

    It leaves out the study or dataset that all have, and the settings that all runs on a dataset
    have.
    """
    names = dict(zip((place.folder for place in places), _short_names(places), strict=True))
    for longer in (_with_digest, lambda place, _: place.whole, _from_the_root):
        counts = Counter(names.values())
        for place in places:
            if counts[name := names[place.folder]] > 1:
                names[place.folder] = longer(place, name)
    return names


def _short_names(places: Sequence[Place]) -> Iterator[str]:
    datasets: dict[str, list[Place]] = {}
    for place in places:
        datasets.setdefault(place.dataset, []).append(place)
    common = {dataset: _common(members) for dataset, members in datasets.items()}
    studies = {dataset: {place.study for place in members} for dataset, members in datasets.items()}
    for place in places:
        first, *others = place.parts or (place.method,)
        own = [part for part in others if part not in common[place.dataset]]
        parts = (
            place.study if len(studies[place.dataset]) > 1 else "",
            place.dataset if len(datasets.keys() - {""}) > 1 else "",
            ",".join([first, *own]),
            place.seed,
        )
        yield "/".join(part for part in parts if part)


def _common(places: Sequence[Place]) -> set[str]:
    """The settings that all have; a cut name may have any that would come after its end."""
    methods = {place.parts: CUT.fullmatch(place.method) is not None for place in places}
    after: dict[str, set[str]] = {}
    for parts in methods:
        for at, part in enumerate(parts):
            after.setdefault(part, set()).update(parts[at + 1 :])
    return {
        part
        for part, later in after.items()
        if all(
            part in parts or (is_cut and later.isdisjoint(parts))
            for parts, is_cut in methods.items()
        )
    }


def _with_digest(place: Place, name: str) -> str:
    cut = CUT.fullmatch(place.method)
    if not cut:
        return name
    before, _, seed = name.rpartition("/")
    return f"{before}-{cut[2]}/{seed}"


def _from_the_root(place: Place, name: str) -> str:
    del name
    return place.folder.as_posix().lstrip("/")


class LinkTree:
    """A folder of links to run folders, each under its short name.

    Args:
        folder: an empty folder.
        roots: where runs are looked for.
    """

    def __init__(self, folder: Path, roots: Sequence[Path]) -> None:
        self.folder = folder
        self.roots = roots
        self._names: dict[Path, str] = {}

    @property
    def names(self) -> Mapping[Path, str]:
        """The name of each folder that is linked."""
        return self._names

    def refresh(self) -> int:
        """Link the folders that are new; those that were there keep their names.

        Returns:
            how many are new.
        """
        places = {place.folder: place for place in find_places(self.roots)}
        new = {
            folder: name
            for folder, name in name_places(list(places.values())).items()
            if folder not in self._names
        }
        for folder, name in new.items():
            taken = self._names.values()
            free = [name, places[folder].whole, _from_the_root(places[folder], name)]
            self._names[folder] = chosen = next(name for name in free if name not in taken)
            link = self.folder / chosen
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder, target_is_directory=True)
        return len(new)
