"""Shared options: before the command or after it, and whose value counts."""

import json

import click
import pytest
from click.testing import CliRunner, Result

from kvstore.cli.options import (
    Connection,
    connection_options,
    global_connection_options,
    output_option,
)
from kvstore.cli.output import OutputFormat


@click.group()
@global_connection_options
def root() -> None:
    pass


@root.command()
@connection_options
@output_option
def show(*, connection: Connection, output: OutputFormat) -> None:
    click.echo(json.dumps([connection.endpoints, connection.timeout_s, output]))


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    clean = {"KVSTORE_ENDPOINTS": None}
    return CliRunner(env={**clean, **(env or {})}).invoke(root, arguments)


def shown(*arguments: str, env: dict[str, str] | None = None) -> list[object]:
    result = run(*arguments, env=env)
    assert result.exit_code == 0, result.output
    answer: list[object] = json.loads(result.output)
    return answer


def test_defaults() -> None:
    assert shown("show") == [["127.0.0.1:7400"], 5.0, "table"]


def test_endpoints_repeat_or_come_with_commas() -> None:
    wanted = ["a:1", "b:2", "c:3"]
    for arguments in (
        ("--endpoints", "a:1,b:2,c:3", "show"),
        ("--endpoints", "a:1, b:2", "--endpoints", "c:3", "show"),
        ("show", "--endpoints", "a:1", "--endpoints", "b:2,c:3"),
        ("show", "--endpoints", "a:1,b:2,a:1,c:3,"),
    ):
        assert shown(*arguments)[0] == wanted


def test_after_the_command_wins_over_before_it_and_over_the_environment() -> None:
    env = {"KVSTORE_ENDPOINTS": "env:1,env:2"}
    assert shown("show", env=env)[0] == ["env:1", "env:2"]
    before = ("--endpoints", "before:1", "--timeout", "2")
    assert shown(*before, "show", env=env)[:2] == [["before:1"], 2.0]
    after = shown(*before, "show", "--endpoints", "after:1", env=env)
    assert after[:2] == [["after:1"], 2.0]


@pytest.mark.parametrize(
    "text",
    [
        "host",
        ":7400",
        "host:",
        "host:http",
        "host:0",
        "host:65536",
        "h:²",
        "::1:7400",
        ",",
    ],
)
def test_what_is_not_host_and_port_is_a_usage_error(text: str) -> None:
    for arguments in (("--endpoints", text, "show"), ("show", "--endpoints", text)):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "--endpoints" in result.stderr


def test_an_ipv6_host_stands_in_brackets() -> None:
    assert shown("show", "--endpoints", "[::1]:7400")[0] == ["[::1]:7400"]


def test_json_is_short_for_output_json() -> None:
    assert shown("show", "--json")[2] == "json"
    assert shown("show", "-o", "json")[2] == "json"
    assert shown("show", "--json", "-o", "json")[2] == "json"
    assert run("show", "--json", "-o", "table").exit_code == 2


def test_a_timeout_is_positive() -> None:
    assert run("show", "--timeout", "0").exit_code == 2
