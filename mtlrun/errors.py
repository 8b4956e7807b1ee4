"""The errors that a user meets. They carry one paragraph that says what to change."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can put right: a setting, a file, a full disk.

    The message is one paragraph, in the user's words (tasks, settings, files), and says what to do.
    """


class Interrupted(KeyboardInterrupt):
    """A run that was asked to stop (Ctrl-C, SIGTERM) and has written its checkpoint.

    A ``KeyboardInterrupt``, so that no job of a sweep swallows it and goes on with the next one.

    Args:
        message: what the user reads.
        exit_code: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def described(error: BaseException) -> str:
    """What went wrong: a user's error as it reads, another one with its kind."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def nearest_hint(word: str, known: Iterable[str], cutoff: float = 0.6, before: str = "") -> str:
    """``"Did you mean X? "`` with the known word that is most like ``word``, or nothing.

    Args:
        word: what the user typed.
        known: the words that there are.
        cutoff: likeness, from 0 to 1, below which nothing is suggested.
        before: what stands before the suggested word.
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f"Did you mean {before}{near[0]}? " if near else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest of the known words, and all of them."""
    words = list(known)
    return f"{nearest_hint(word, words, cutoff=0.5)}Known: {', '.join(words) or 'none'}."
