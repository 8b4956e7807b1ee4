"""Stopping on request: Ctrl-C and SIGTERM let a step finish."""

import signal
from types import FrameType
from typing import Any


class StopRequest:
    """Notes SIGINT and SIGTERM while it is open, instead of dying of them. The second one does.

    Attributes:
        signal: the signal that asked to stop, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._ask)
            except ValueError:  # not in the main thread: signals go to whoever started this run
                break
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
