"""What teachers are called where a run's settings are shown. Imports no torch.

A teacher is named by the folder of its run, ``<study>/<dataset>/<method>/seed=<n>``, or of its
method, which stands for the run of the student's own seed.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import PurePath

KEY = "distill.teachers"


def teachers_text(folders: Sequence[str], student: Collection[str] = ()) -> str:
    """``[equal,architecture=single_task]``: methods, those of several runs with their number.

    Args:
        folders: as given.
        student: the parts of the student's own name, which are left out.
    """
    methods = Counter(_told(PurePath(_method_folder(folder)).name, student) for folder in folders)
    named = (f"{count} of {method}" if count > 1 else method for method, count in methods.items())
    return f"[{', '.join(named)}]"


def teachers_identity(folders: Sequence[str]) -> str:
    """What makes teachers the same in any study and place, and for any seed of the student.

    Datasets and methods, each with ``seed=*`` where one run was named.
    """
    return ", ".join(sorted(map(_place, folders)))


def _told(method: str, student: Collection[str]) -> str:
    weighting, *changed = method.split(",")
    return ",".join([weighting, *(part for part in changed if part not in student)])


def _place(folder: str) -> str:
    method = _method_folder(folder)
    last = "/".join(PurePath(method).parts[-2:])
    return last if method == folder else f"{last}/seed=*"


def _method_folder(folder: str) -> str:
    path = PurePath(folder)
    return str(path.parent if path.name.startswith("seed=") else path)
