"""Structured logging: one event per line, fields instead of sentences.

JSON where a machine reads, aligned text where a person does. An event's name is
constant and its fields carry what varies, so that a log can be counted and searched.
Keys and values of users never appear above DEBUG.
"""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

_FIELDS_ATTRIBUTE = "kvstore_fields"

_LEVEL_COLOURS = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}
_COLOUR_END = "\x1b[0m"


class LogFormat(StrEnum):
    """How a log line is written."""

    JSON = "json"
    TEXT = "text"


def log_event(
    logger: logging.Logger, level: int, event: str, /, **fields: object
) -> None:
    """Log an event, such as ``log_event(logger, INFO, "elected", node=1, term=7)``.

    Fields are numbers, text, booleans, None, bytes (written in hexadecimal), or lists
    of them; anything else is written as its ``str``. Name ``node``, ``term`` and
    ``index`` wherever they are known.
    """
    if logger.isEnabledFor(level):
        # The name could contain a percent sign; with no arguments it is not formatted.
        logger.log(level, event, extra={_FIELDS_ATTRIBUTE: fields}, stacklevel=2)


def configure_logging(
    *,
    format: LogFormat | None = None,  # noqa: A002 - the option's name
    level: int = logging.INFO,
    stream: TextIO | None = None,
    colour: bool | None = None,
) -> None:
    """Send every logger's events to ``stream`` (stderr). For whoever owns the process.

    Without ``format``: text if the stream is a terminal, JSON if not. ``colour`` is for
    text and defaults to whether the stream is a terminal.
    """
    target = sys.stderr if stream is None else stream
    terminal = target.isatty()
    if format is None:
        format = LogFormat.TEXT if terminal else LogFormat.JSON  # noqa: A001
    handler = logging.StreamHandler(target)
    if format is LogFormat.JSON:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(
            TextFormatter(colour=terminal if colour is None else colour)
        )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)


class JsonFormatter(logging.Formatter):
    """``{"time": …, "level": …, "event": …, "logger": …, fields…}`` on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, object] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
        }
        # A field cannot replace what every line has.
        for name, value in _fields(record).items():
            line[f"{name}_" if name in line else name] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=_plain, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """``09:15:02.113 INFO    elected  node=1 term=7``, and the traceback below."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        time = _time(record).astimezone().isoformat(timespec="milliseconds")[11:23]
        fields = " ".join(
            f"{name}={_word(value)}" for name, value in _fields(record).items()
        )
        head = f"{time} {record.levelname:<8}{record.getMessage()}"
        start = _LEVEL_COLOURS.get(record.levelno, "") if self._colour else ""
        if start:
            head = f"{start}{head}{_COLOUR_END}"
        line = f"{head}  {fields}" if fields else head
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


def _time(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, _FIELDS_ATTRIBUTE, {})
    return fields


def _plain(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _word(value: object) -> str:
    if isinstance(value, int | float | list | tuple | None):
        return json.dumps(value, default=_plain)
    text = _plain(value)
    # Quoted where a reader could not tell where the value ends; this also keeps a text
    # that came over the network from ending the line.
    if not text or not text.isprintable() or set(text) & set(' "='):
        return json.dumps(text)
    return text
