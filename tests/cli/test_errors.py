"""Exit codes: the map is total, and people are told what to do."""

import click
import pytest
from click.testing import CliRunner

from kvstore import errors
from kvstore.cli.errors import (
    EXIT_CODE_MEANINGS,
    CommandFailed,
    ExitCode,
    exit_code_of,
    exit_codes,
    failure_of,
    read_only,
)


def every_error() -> list[type[errors.KVStoreError]]:
    found: list[type[errors.KVStoreError]] = []
    new = [errors.KVStoreError]
    while new:
        children = [child for kind in new for child in kind.__subclasses__()]
        new = [child for child in children if child.__module__ == errors.__name__]
        found += new
    return found


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_an_exit_code(kind: type[errors.KVStoreError]) -> None:
    """Goal: no error of ours looks like success or like 'the answer is no'."""
    code = exit_code_of(kind)
    assert code not in {ExitCode.OK, ExitCode.NEGATIVE, ExitCode.INTERNAL}
    assert (code is ExitCode.OUTCOME_UNKNOWN) == (not kind.definite)


def test_an_error_outside_the_tree_is_not_mapped_by_accident() -> None:
    with pytest.raises(LookupError):
        exit_code_of(errors.KVStoreError)


def test_every_exit_code_is_explained() -> None:
    assert set(EXIT_CODE_MEANINGS) == set(ExitCode)


def run(error: BaseException, *, reading: bool = False) -> tuple[int, str]:
    @click.command()
    def command() -> None:
        with exit_codes():
            if reading:
                read_only()
            raise error

    result = CliRunner().invoke(command)
    assert result.stdout == ""
    return result.exit_code, result.stderr


def test_an_unknown_outcome_is_said_plainly() -> None:
    code, text = run(errors.DeadlineExceeded("no answer within 5 s"))
    assert code == ExitCode.OUTCOME_UNKNOWN
    assert "Error: no answer within 5 s\n" in text
    assert "Hint: The write may or may not have been applied; read the key" in text


def test_a_read_that_got_no_answer_is_unavailable_not_unknown() -> None:
    code, text = run(errors.DeadlineExceeded("late"), reading=True)
    assert code == ExitCode.UNAVAILABLE
    assert "Nothing was changed" in text
    assert "may or may not" not in text


def test_an_error_without_words_is_named() -> None:
    assert failure_of(errors.Busy("")).message == "Busy"


def test_ctrl_c_in_a_write_says_that_the_outcome_is_unknown() -> None:
    code, text = run(KeyboardInterrupt())
    assert code == ExitCode.INTERRUPTED
    assert "may or may not" in text
    code, text = run(KeyboardInterrupt(), reading=True)
    assert code == ExitCode.INTERRUPTED
    assert "may or may not" not in text


def test_a_bug_is_not_dressed_up() -> None:
    with pytest.raises(AssertionError), exit_codes():
        raise AssertionError


def test_a_failure_without_a_hint_is_one_line() -> None:
    failure = CommandFailed("no", code=ExitCode.REFUSED)
    assert failure.format_message() == "no"
