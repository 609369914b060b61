"""Options that commands share.

``--endpoints`` and ``--timeout`` may stand before the subcommand or after it, because
people type both. The later one wins; the environment is asked only if neither is given.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import update_wrapper
from typing import TypeVar

import click

from kvstore.cli.errors import read_only
from kvstore.cli.output import OutputFormat
from kvstore.config import check_address
from kvstore.errors import ConfigError

ENDPOINTS_VARIABLE = "KVSTORE_ENDPOINTS"
ENDPOINT_DEFAULT = "127.0.0.1:7400"
TIMEOUT_DEFAULT_S = 5.0

_GLOBAL = "kvstore.cli.connection"

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Whom to ask and how long to wait for the whole answer."""

    endpoints: tuple[str, ...] = (ENDPOINT_DEFAULT,)
    timeout_s: float = TIMEOUT_DEFAULT_S
    timeout_chosen: bool = False
    """Whether somebody said so."""


def global_connection_options(
    function: Callable[..., Result],
) -> Callable[..., Result]:
    """Add the options to the root command and keep their values for its commands."""

    def keep(
        *,
        endpoints: tuple[str, ...],
        timeout_s: float | None,
        **others: object,
    ) -> Result:
        click.get_current_context().meta[_GLOBAL] = _merge(
            Connection(), endpoints, timeout_s
        )
        return function(**others)

    update_wrapper(keep, function)
    return _endpoints_option(envvar=ENDPOINTS_VARIABLE)(_timeout_option()(keep))


def connection_options_waiting(
    timeout_default_s: float,
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Add ``--endpoints`` and ``--timeout``; the function gets ``connection=``.

    For a command whose work takes longer than a request.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        def call(
            *,
            endpoints: tuple[str, ...],
            timeout_s: float | None,
            **others: object,
        ) -> Result:
            kept = click.get_current_context().meta.get(_GLOBAL, Connection())
            assert isinstance(kept, Connection)
            if not kept.timeout_chosen:
                kept = replace(kept, timeout_s=timeout_default_s)
            return function(connection=_merge(kept, endpoints, timeout_s), **others)

        update_wrapper(call, function)
        timeout_option = _timeout_option(timeout_default_s)
        return _endpoints_option(envvar=None)(timeout_option(call))

    return decorate


def connection_options(function: Callable[..., Result]) -> Callable[..., Result]:
    """Add ``--endpoints`` and ``--timeout``; the function gets ``connection=``."""
    return connection_options_waiting(TIMEOUT_DEFAULT_S)(function)


def output_option(function: Callable[..., Result]) -> Callable[..., Result]:
    """Add ``--output`` and its short form ``--json``; the function gets ``output=``."""

    def call(*, output: str | None, as_json: bool, **others: object) -> Result:
        if as_json and output == OutputFormat.TABLE:
            raise click.UsageError("--json and --output table contradict each other")
        chosen = OutputFormat.JSON if as_json else OutputFormat(output or "table")
        return function(output=chosen, **others)

    update_wrapper(call, function)
    short = click.option(
        "--json", "as_json", is_flag=True, help="Short for --output json."
    )
    long = click.option(
        "--output",
        "-o",
        type=click.Choice([str(choice) for choice in OutputFormat]),
        help="A table for people or JSON for scripts.  [default: table]",
    )
    return long(short(call))


def reads_only(function: Callable[..., Result]) -> Callable[..., Result]:
    """Declare a command that changes nothing: a deadline then leaves no doubt."""

    def call(**values: object) -> Result:
        read_only()
        return function(**values)

    update_wrapper(call, function)
    return call


def examples(*lines: str) -> str:
    """Return an ``epilog=`` of commands to try, one a line."""
    # click keeps the line ends of a paragraph that begins with a backspace.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def parse_address(text: str) -> str:
    """Return a ``HOST:PORT`` that is well formed.

    Raises:
        click.BadParameter: it is not; the message says how to write it.
    """
    try:
        check_address("the address", text, port_min=1)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from error
    return text


def _endpoints_option(
    envvar: str | None,
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    return click.option(
        "--endpoints",
        metavar="HOST:PORT,...",
        multiple=True,
        callback=_parse_endpoints,
        envvar=envvar,
        help="Nodes to ask, repeatable or with commas.  "
        f"[env: {ENDPOINTS_VARIABLE}; default: {ENDPOINT_DEFAULT}]",
    )


def _timeout_option(
    default_s: float = TIMEOUT_DEFAULT_S,
) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help=f"Give up after this long.  [default: {default_s:g}]",
    )


def _merge(
    base: Connection,
    endpoints: tuple[str, ...],
    timeout_s: float | None,
) -> Connection:
    return Connection(
        # The same node twice would only be asked twice.
        endpoints=tuple(dict.fromkeys(endpoints)) or base.endpoints,
        timeout_s=base.timeout_s if timeout_s is None else timeout_s,
        timeout_chosen=base.timeout_chosen or timeout_s is not None,
    )


def _parse_endpoints(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    parts = [part.strip() for value in values for part in value.split(",")]
    endpoints = tuple(parse_address(part) for part in parts if part)
    if values and not endpoints:
        raise click.BadParameter("name at least one HOST:PORT")
    return endpoints
