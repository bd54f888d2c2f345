"""Ctrl-C and SIGTERM as a request that the loop looks at between updates."""

from __future__ import annotations

import signal
import threading
from types import FrameType

EXIT = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Interruption:
    """While entered, the first SIGINT or SIGTERM only sets `signal`; a second one of any kind acts as usual."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interruption:
        # Python allows handlers in the main thread only; elsewhere the caller is in charge.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in EXIT}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if callable(handler) else signal.Handlers(handler or signal.SIG_DFL))  # type: ignore[arg-type]
        self._before = {}

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self.__exit__()

    @property
    def status(self) -> int:
        """The exit status: 0, 130 or 143."""
        return 0 if self.signal is None else EXIT[self.signal]
