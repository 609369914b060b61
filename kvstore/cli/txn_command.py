"""``kvstore txn``."""

import sys
from typing import BinaryIO

import click

from kvstore.cli.errors import ExitCode
from kvstore.cli.options import (
    Connection,
    connection_options,
    examples,
    output_option,
)
from kvstore.cli.output import OutputFormat, print_json
from kvstore.cli.results import txn_json, txn_lines
from kvstore.cli.store import run
from kvstore.cli.txn_json import TxnFormatError, parse_txn

_FORM = r"""
{"compare": [{"key": "a", "target": "version", "result": "==", "value": 0}],
 "then": [{"put": {"key": "a", "value": "1"}}],
 "else": [{"get": {"key": "a"}}]}
""".strip()


@click.command(
    short_help="Compare, then run one list of operations or another, at once.",
    epilog=examples(
        "kvstore txn --file create.json",
        "kvstore txn - <<'END'",
        *(f"  {line}" for line in _FORM.splitlines()),
        "END",
    ),
)
@click.argument("stdin", required=False, type=click.Choice(["-"]), metavar="[-]")
@click.option(
    "--file", type=click.File("rb"), metavar="PATH", help="Take the JSON from a file."
)
@connection_options
@output_option
def txn(
    *,
    stdin: str | None,
    file: BinaryIO | None,
    connection: Connection,
    output: OutputFormat,
) -> None:
    """Run a transaction written as JSON, from --file or, with -, standard input.

    If every comparison holds, the operations of "then" run, else those of "else": all
    at one revision, or none. Exits with 1 if "else" ran.

    "compare": key; target: version, create, mod (revisions) or value; result: ==, !=, >
    or <; value. Of a key that does not exist, the numbers are 0 and no value compares.

    "then", "else": {"put": {key, value, prev_kv}}, {"get": {key, limit, revision,
    sort_by, descending, keys_only, count_only}}, {"delete": {key, prev_kv}} and {"txn":
    {...}}. A get or delete takes range_end or from_key beside key, or prefix instead.

    A key or value is text, or {"base64": "..."}.
    """
    if (stdin is None) == (file is None):
        raise click.UsageError("give either --file PATH or - for standard input")
    source = file if file is not None else sys.stdin.buffer
    try:
        request = parse_txn(source.read())
    except TxnFormatError as error:
        raise click.UsageError(str(error)) from error
    result = run(connection, lambda store: store.txn(request))
    if output is OutputFormat.JSON:
        print_json(txn_json(result))
    else:
        click.echo("\n".join(txn_lines(result)))
    if not result.succeeded:
        click.get_current_context().exit(ExitCode.NEGATIVE)
