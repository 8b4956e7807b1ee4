"""What the rows of a table are called, and the settings in which they differ."""

from collections.abc import Mapping, Sequence

from mtlrun.analysis.comparison.groups import Group
from mtlrun.analysis.settings import GROUPS, without_effect
from mtlrun.teacher_names import KEY as TEACHERS

DISTILLED = "distilled"
"""What stands in names for the teachers that all distilled runs of a table have."""


def short_names(groups: Sequence[Group]) -> tuple[dict[Group, str], tuple[str, ...]]:
    """Names that leave out the changed settings that all groups have, and these settings.

    Where a run does not say what was changed, or there is one group only, names are whole. Groups
    of one study that would have the same name get what else they differ in added.
    """
    names, common = _from_changes(groups)
    taken: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        taken.setdefault((group.study, names[group]), []).append(group)
    for alike in taken.values():
        if len(alike) > 1:
            more = differences(alike)
            for number, group in enumerate(alike, start=1):
                added = [f"{key}={value}" for key, value in more[group].items()]
                names[group] = ",".join([names[group], *(added or [f"({number})"])])
    return names, common


def _from_changes(groups: Sequence[Group]) -> tuple[dict[Group, str], tuple[str, ...]]:
    changes = [group.runs[0].changed for group in groups]
    known = [change for change in changes if change is not None]
    if len(groups) < 2 or len(known) < len(groups):
        return {group: group.method for group in groups}, ()
    common = set.intersection(*(set(change.items()) for change in known))
    same_teachers = teachers_of_all(groups) is not None
    every = {task for group in groups for task in group.tasks}
    names = {}
    for group, change in zip(groups, known, strict=True):
        told = {
            key: f"{key}={value}"
            for key, value in change.items()
            if (key, value) not in common and not without_effect(key)
        }
        distilled = [DISTILLED] if same_teachers and told.pop(TEACHERS, "") else []
        fewer = [f"tasks=[{','.join(group.tasks)}]"] if set(group.tasks) < every else []
        names[group] = ",".join([group.runs[0].weighting, *distilled, *told.values(), *fewer])
    return names, tuple(f"{key}={value}" for key, value in sorted(common))


def teachers_of_all(groups: Sequence[Group]) -> str | None:
    """The teachers of those groups that have any, where they are the same and need no telling."""
    taught = {(group.runs[0].changed or {}).get(TEACHERS) for group in groups} - {None}
    return taught.pop() if len(taught) == 1 else None


def differences(groups: Sequence[Group]) -> dict[Group, dict[str, str]]:
    """For each group its values of those settings in which the groups differ.

    A group's choices (``weighting``, ``architecture``) stand for the settings that come with
    them; a setting of a choice counts where it was changed, or differs among those who made that
    choice.
    """
    described = {group: _described(group) for group in groups}
    seen: dict[str, set[str]] = {}
    of_choice: dict[tuple[str, str], set[str]] = {}
    holders: dict[str, int] = {}
    for group, settings in described.items():
        for key, value in settings.items():
            choice = settings.get(key.split(".", 1)[0], "")
            seen.setdefault(key, set()).add(value)
            of_choice.setdefault((key, choice), set()).add(value)
            holders[key] = holders.get(key, 0) + group.has_config
    known = sum(group.has_config for group in groups)
    telling = {key for group in groups for key in group.runs[0].changed or ()}
    telling.update(key for (key, _), values in of_choice.items() if len(values) > 1)
    differing = [
        key
        for key, values in seen.items()
        if (len(values) > 1 or holders[key] < known)
        and (key in telling or "." not in key or key.split(".", 1)[0] not in GROUPS)
    ]
    return {
        group: {key: settings[key] for key in differing if key in settings}
        for group, settings in described.items()
    }


def _described(group: Group) -> Mapping[str, str]:
    """Choices, then settings without the names of classes."""
    settings = {
        key: value for key, value in group.settings.items() if not key.endswith("._target_")
    }
    return {**group.runs[0].choices, **settings}
