"""``kvstore put``, ``kvstore delete`` and ``kvstore compact``."""

import os
import sys
from collections.abc import Callable
from typing import BinaryIO

import click

from kvstore.cli.keys import KeyRange, choose_range, key_format_option, prefix_range
from kvstore.cli.options import (
    Connection,
    connection_options,
    examples,
    output_option,
)
from kvstore.cli.output import OutputFormat, note, plural, print_json
from kvstore.cli.results import delete_json, print_pairs, put_json
from kvstore.cli.store import run
from kvstore.errors import RequestTooLarge
from kvstore.pb import kv_pb2

VALUE_BYTES_READ_MAX = 64 << 20
"""No server accepts as much; do not read an endless stream into memory."""


@click.command(
    short_help="Write a key.",
    epilog=examples(
        "kvstore put greeting hello",
        "kvstore put photo --file photo.jpg",
        "tar c . | kvstore put backup -",
        "kvstore put -- offset -5",
        "kvstore put --key-format hex 00ff value",
    ),
)
@click.argument("key")
@click.argument("value", required=False)
@click.option(
    "--file", type=click.File("rb"), metavar="PATH", help="Take the value from a file."
)
@click.option("--prev-kv", is_flag=True, help="Print the pair that was replaced, too.")
@key_format_option
@connection_options
@output_option
def put(
    *,
    key: str,
    value: str | None,
    file: BinaryIO | None,
    prev_kv: bool,
    decode_key: Callable[[str], bytes],
    connection: Connection,
    output: OutputFormat,
) -> None:
    """Write VALUE to KEY; a VALUE of - is read from standard input, byte for byte.

    Prints the revision of the write, which is durable on a majority by then. After exit
    code 4 the write may or may not have been applied.
    """
    request = kv_pb2.Put(
        key=decode_key(key), value=_value(value, file), prev_kv=prev_kv
    )
    result = run(connection, lambda store: store.put(request))
    if output is OutputFormat.JSON:
        print_json(put_json(result))
        return
    click.echo(f"Revision {result.revision}.")
    if result.HasField("prev_kv"):
        print_pairs([result.prev_kv])
    elif prev_kv:
        note("The key did not exist before.")


@click.command(
    short_help="Delete a key or a range of keys.",
    epilog=examples(
        "kvstore delete greeting",
        "kvstore delete --prefix session/",
        "kvstore delete a m --prev-kv --json",
    ),
)
@click.argument("key", required=False)
@click.argument("range_end", required=False)
@click.option("--prefix", metavar="PREFIX", help="All keys that begin with PREFIX.")
@click.option("--from-key", is_flag=True, help="All keys from KEY on.")
@click.option("--all", "everything", is_flag=True, help="Every key there is.")
@click.option("--prev-kv", is_flag=True, help="Print the pairs that were deleted, too.")
@key_format_option
@connection_options
@output_option
def delete(
    *,
    key: str | None,
    range_end: str | None,
    prefix: str | None,
    from_key: bool,
    everything: bool,
    prev_kv: bool,
    decode_key: Callable[[str], bytes],
    connection: Connection,
    output: OutputFormat,
) -> None:
    """Delete KEY, the keys from KEY up to but without RANGE_END, or a prefix.

    Prints how many keys were deleted; none is no error. The revision rises by one if
    there were any.
    """
    span = _range_to_delete(
        choose_range(
            key=key,
            range_end=range_end,
            prefix=prefix,
            from_key=from_key,
            decode=decode_key,
        ),
        empty_prefix=prefix == "",
        everything=everything,
    )
    request = kv_pb2.DeleteRange(
        key=span.key, range_end=span.range_end, prev_kv=prev_kv
    )
    result = run(connection, lambda store: store.delete_range(request))
    if output is OutputFormat.JSON:
        print_json(delete_json(result))
        return
    click.echo(f"Deleted {plural(result.deleted, 'key')}, revision {result.revision}.")
    if result.prev_kvs:
        print_pairs(result.prev_kvs)


@click.command(
    short_help="Give up history below a revision.",
    epilog=examples(
        "kvstore compact 1000",
        'kvstore compact "$(kvstore range --count-only --json | jq .revision)"',
    ),
)
@click.argument("revision", type=click.IntRange(min=1))
@connection_options
@output_option
def compact(*, revision: int, connection: Connection, output: OutputFormat) -> None:
    """Give up what was overwritten or deleted before REVISION, to save space.

    Reads as of an older revision then fail. The newest pair of every key stays. Space
    is reclaimed in the background.
    """
    request = kv_pb2.Compact(revision=revision)
    run(connection, lambda store: store.compact(request))
    if output is OutputFormat.JSON:
        print_json({"compact_revision": revision})
    else:
        click.echo(f"History below revision {revision} is given up.")


def _range_to_delete(
    span: KeyRange | None, *, empty_prefix: bool, everything: bool
) -> KeyRange:
    if empty_prefix:
        # An unset variable in a script must not delete the store.
        raise click.UsageError(
            "an empty --prefix is every key: say --all if you mean it"
        )
    if everything:
        if span is not None:
            raise click.UsageError("--all stands alone")
        return prefix_range(b"")
    if span is None:
        raise click.UsageError("name KEY, KEY RANGE_END, --prefix or --all")
    return span


def _value(value: str | None, file: BinaryIO | None) -> bytes:
    if (value is None) == (file is None):
        raise click.UsageError("give either VALUE (- for standard input) or --file")
    if value is not None and value != "-":
        return os.fsencode(value)
    stream = file if file is not None else sys.stdin.buffer
    data = stream.read(VALUE_BYTES_READ_MAX + 1)
    if len(data) > VALUE_BYTES_READ_MAX:
        raise RequestTooLarge(
            f"the value is larger than {VALUE_BYTES_READ_MAX} bytes",
            limit="value_bytes_max",
            actual=len(data),
            maximum=VALUE_BYTES_READ_MAX,
        )
    return data
