"""Log lines: machine-readable off a terminal, readable on one, one event a line."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from kvstore.server.logs import LogFormat, configure_logging, log_event


@pytest.fixture(autouse=True)
def root_logger_restored() -> Iterator[None]:
    """Logging is the process's; tests must give it back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def json_lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_off_a_terminal_each_event_is_one_json_line_with_its_fields() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    log_event(
        logging.getLogger("kvstore.x"),
        logging.INFO,
        "elected",
        node=1,
        term=7,
        id=b"\x01",
    )
    (line,) = json_lines(stream)
    assert line.pop("time")
    assert line == {
        "level": "info",
        "event": "elected",
        "logger": "kvstore.x",
        "node": 1,
        "term": 7,
        "id": "01",
    }


def test_on_a_terminal_lines_are_text() -> None:
    stream = Terminal()
    configure_logging(stream=stream, colour=False)
    log_event(
        logging.getLogger("x"), logging.INFO, "elected", node=1, why="two words", f=None
    )
    line = stream.getvalue()
    assert line.endswith('INFO    elected  node=1 why="two words" f=null\n')
    assert "\x1b" not in line


def test_a_warning_is_coloured_on_a_terminal() -> None:
    stream = Terminal()
    configure_logging(stream=stream)
    log_event(logging.getLogger("x"), logging.WARNING, "slow")
    assert "\x1b[33m" in stream.getvalue()


def test_text_from_elsewhere_cannot_end_a_line_or_drive_the_terminal() -> None:
    for format_ in LogFormat:
        stream = io.StringIO()
        configure_logging(stream=stream, format=format_)
        log_event(logging.getLogger("x"), logging.INFO, "said", text='a\nb "\x1b[2J')
        assert stream.getvalue().count("\n") == 1
        assert "\x1b" not in stream.getvalue()


def test_a_field_cannot_replace_what_every_line_has() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream)
    log_event(logging.getLogger("x"), logging.INFO, "real", event="fake")
    (line,) = json_lines(stream)
    assert (line["event"], line["event_"]) == ("real", "fake")


def test_an_exception_travels_with_its_event() -> None:
    for format_ in LogFormat:
        stream = io.StringIO()
        configure_logging(stream=stream, format=format_)
        try:
            int("broken")
        except ValueError:
            logging.getLogger("x").exception("failed")
        assert "ValueError: invalid literal" in stream.getvalue()


def test_events_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    configure_logging(stream=stream, level=logging.WARNING)
    log_event(logging.getLogger("x"), logging.INFO, "quiet")
    assert stream.getvalue() == ""


def test_configuring_again_replaces_the_handler() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(stream=first)
    configure_logging(stream=second)
    log_event(logging.getLogger("x"), logging.INFO, "once")
    assert (first.getvalue(), len(json_lines(second))) == ("", 1)
