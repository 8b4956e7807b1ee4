"""The errors that a user meets. They carry one paragraph that says what to change."""


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
