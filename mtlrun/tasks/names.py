"""Names of a task's classes or labels."""

from collections.abc import Sequence


def names_or_numbers(
    argument: str, names: Sequence[str] | None, count: int, things: str
) -> tuple[str, ...]:
    """The names, or "0", "1" and so on where there are none.

    Args:
        argument: how the setting is called, for the error.
        names: one for each thing, or None.
        count: how many things there are.
        things: what they are, for the error, for example ``classes``.

    Raises:
        ValueError: there is not one name for each.
    """
    if names is None:
        return tuple(map(str, range(count)))
    if len(names) != count:
        raise ValueError(f"{argument}={list(names)}: needs one name for each of {count} {things}")
    return tuple(names)
