"""Exit codes, and what the user reads beside them.

A script must be able to tell "no" from "nobody answered" from "perhaps", so each kind
of ending has its number. The map from ``kvstore.errors`` is by class, the nearest
ancestor deciding; a test proves that no class falls through.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from typing import TypeVar

import click

from kvstore import errors

_READ_ONLY = "kvstore.cli.read_only"

Value = TypeVar("Value")


class ExitCode(IntEnum):
    """How a command ended."""

    OK = 0
    NEGATIVE = 1
    USAGE = 2
    UNAVAILABLE = 3
    OUTCOME_UNKNOWN = 4
    REFUSED = 5
    CORRUPTION = 6
    DIRECTORY_OR_CONFIG = 7
    INTERNAL = 70
    INTERRUPTED = 130
    READER_GONE = 141


EXIT_CODE_MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.NEGATIVE: "the answer is no: key absent, condition of a txn not met, "
    "cluster not healthy, corruption counted by scrub, a seed of sim went wrong",
    ExitCode.USAGE: "the command line or an input file cannot be understood",
    ExitCode.UNAVAILABLE: "nobody could take the request in time; "
    "nothing was changed, try again",
    ExitCode.OUTCOME_UNKNOWN: "a write may or may not have been applied; "
    "read before trying again",
    ExitCode.REFUSED: "the server refused the request; trying again will not help",
    ExitCode.CORRUPTION: "a stored record is damaged and was not served",
    ExitCode.DIRECTORY_OR_CONFIG: "a data directory or a setting cannot be used",
    ExitCode.INTERNAL: "a bug in kvstore: please report the traceback",
    ExitCode.INTERRUPTED: "interrupted from the keyboard",
    ExitCode.READER_GONE: "the reader of the output went away, as `head` does",
}
"""In the words of ``kvstore --help``."""


class CommandFailed(click.ClickException):
    """Ends a command with an exit code, an ``Error:`` line and a ``Hint:`` line."""

    def __init__(self, message: str, *, code: ExitCode, hint: str = "") -> None:
        super().__init__(message)
        # click reads the attribute wherever it is; only its annotation says ClassVar.
        self.exit_code = int(code)  # type: ignore[misc]
        self.hint = hint

    def format_message(self) -> str:
        """Return what follows ``Error:``."""
        if not self.hint:
            return self.message
        return f"{self.message}\n{click.style('Hint:', fg='yellow')} {self.hint}"


def read_only() -> None:
    """Declare that the running command changes nothing.

    A read that got no answer in time has no unknown outcome: it is just unavailable.
    """
    click.get_current_context().meta[_READ_ONLY] = True


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn ``kvstore.errors`` raised inside into exit codes (also a decorator).

    The root command wraps every command in it; commands need not.

    Raises:
        CommandFailed: for an error of kvstore, or Ctrl-C.
        SystemExit: the reader of stdout went away, as ``head`` does.
    """
    try:
        yield
    except BrokenPipeError:
        # Python flushes stdout once more when it exits, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.READER_GONE)
    except errors.KVStoreError as error:
        raise failure_of(error) from error
    except KeyboardInterrupt as error:
        writing = not _is_read_only()
        hint = "If a write was under way, it may or may not have been applied."
        raise CommandFailed(
            "interrupted",
            code=ExitCode.INTERRUPTED,
            hint=hint if writing else "",
        ) from error


def failure_of(error: errors.KVStoreError) -> CommandFailed:
    """Return the ending for an error of the running command."""
    kind = type(error)
    code = exit_code_of(kind)
    hint = _nearest(kind, _hints()) or ""
    if code is ExitCode.OUTCOME_UNKNOWN and _is_read_only():
        code = ExitCode.UNAVAILABLE
        hint = (
            "No answer arrived in time. Nothing was changed: try again, or allow "
            "more time with --timeout."
        )
    return CommandFailed(str(error) or kind.__name__, code=code, hint=hint)


def exit_code_of(kind: type[errors.KVStoreError]) -> ExitCode:
    """Return the exit code for an error's class.

    Raises:
        LookupError: no class among its ancestors is mapped.
    """
    code = _nearest(kind, _exit_codes())
    if code is None:
        raise LookupError(f"{kind.__name__} has no exit code")
    return code


def _nearest(kind: type, table: Mapping[type, Value]) -> Value | None:
    for ancestor in kind.__mro__:
        if ancestor in table:
            return table[ancestor]
    return None


def _is_read_only() -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(_READ_ONLY, False)


def _exit_codes() -> dict[type, ExitCode]:
    return {
        errors.InvalidRequest: ExitCode.REFUSED,
        errors.Unavailable: ExitCode.UNAVAILABLE,
        errors.OutcomeUnknown: ExitCode.OUTCOME_UNKNOWN,
        errors.CorruptionError: ExitCode.CORRUPTION,
        errors.DataDirectoryError: ExitCode.DIRECTORY_OR_CONFIG,
        errors.DamagedSnapshot: ExitCode.CORRUPTION,
        errors.Removed: ExitCode.DIRECTORY_OR_CONFIG,
        errors.ConfigError: ExitCode.DIRECTORY_OR_CONFIG,
        errors.Closed: ExitCode.UNAVAILABLE,
    }


def _hints() -> dict[type, str]:
    return {
        errors.RequestTooLarge: "Send less in one request: a smaller value, or fewer "
        "operations.",
        errors.Compacted: "That history is gone. Ask for a newer revision; "
        "`kvstore status` shows from where history is kept.",
        errors.FutureRevision: "That revision does not exist yet; `kvstore status` "
        "shows the newest.",
        errors.Unavailable: "Nothing was changed, so it is safe to try again. Check "
        "--endpoints, and see with `kvstore status` which nodes answer.",
        errors.Busy: "The cluster is overloaded and nothing was changed: try again in "
        "a moment.",
        errors.OutcomeUnknown: "The write may or may not have been applied; "
        "read the key before trying again.",
        errors.CorruptionError: "A stored record is damaged and was not served. "
        "`kvstore scrub status` names it; another node may hold it whole.",
        # Of directories and settings, the message itself says what to do.
        errors.DirectoryNotFounded: "`kvstore init --help` shows how to found a "
        "member.",
        errors.MembershipRefused: "`kvstore member list` shows the members as they "
        "are.",
        errors.ChangePending: "Nothing was changed. See with `kvstore member list` and "
        "`kvstore status` what is under way, or who lags, and try again.",
        errors.IdentityLost: "If the disk is lost, make a new member with `kvstore "
        "init --join` under an id that was never used, and put it in this one's place "
        "with `kvstore member replace`.",
        errors.DamagedSnapshot: "Nothing was changed. Use another snapshot, or save "
        "one again; `kvstore snapshot verify` reads a file to its end.",
        errors.DamagedDirectory: "Keep the directory as it is for inspection. While a "
        "majority of the cluster is up, nothing committed is lost.",
    }
