"""What ends a node when something goes wrong where it decides."""

from collections.abc import Callable
from types import TracebackType

from kvstore.server.loop_calls import STORAGE_FAILURES


class FailStop:
    """Around all that the replica decides: what goes wrong there ends the node.

    A half-changed replica must not decide anything more. A failure of storage ends
    here; a defect of ours goes on to the event loop's exception handler too.
    """

    __slots__ = ("_fail",)

    def __init__(self, fail: Callable[[BaseException], None]) -> None:
        """``fail`` stops the node; twice is fine."""
        self._fail = fail

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is None:
            return False
        self._fail(error)
        return isinstance(error, STORAGE_FAILURES)

    def task_failed(self, error: BaseException) -> None:
        """A task ended, and nobody does its work any more. From its done-callback."""
        with self:
            raise error
