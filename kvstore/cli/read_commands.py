"""``kvstore get`` and ``kvstore range``."""

import sys
from collections.abc import Callable

import click

from kvstore.cli.errors import CommandFailed, ExitCode
from kvstore.cli.keys import (
    SORT_TARGETS,
    choose_range,
    key_format_option,
    prefix_range,
)
from kvstore.cli.options import (
    Connection,
    connection_options,
    examples,
    output_option,
    reads_only,
)
from kvstore.cli.output import (
    Json,
    OutputFormat,
    human_count,
    note,
    print_json,
    print_json_line,
    printable,
    stdout_is_terminal,
)
from kvstore.cli.range_pages import read_pages
from kvstore.cli.reading import (
    Reader,
    ReadingOptions,
    explain_on_stderr,
    explanation_json,
    reading_options,
)
from kvstore.cli.results import pair_json, print_pairs
from kvstore.cli.store import Store, run
from kvstore.pb import kv_pb2

_PLAIN_CONTROLS = "\n\t"


@click.command(
    short_help="Print the value of a key.",
    epilog=examples(
        "kvstore get greeting",
        "kvstore get photo > photo.jpg",
        "kvstore get greeting --revision 12",
        "kvstore get greeting --consistency stale --explain",
        "kvstore get greeting --json | jq -r .value.text",
        "kvstore get --key-format hex 00ff",
    ),
)
@click.argument("key")
@click.option(
    "--revision",
    type=click.IntRange(min=1),
    metavar="N",
    help="Read as of this revision.  [default: the newest]",
)
@click.option(
    "--raw",
    is_flag=True,
    help="Write the exact bytes even to a terminal, and add no line end.",
)
@reading_options
@key_format_option
@connection_options
@output_option
@reads_only
def get(
    *,
    key: str,
    revision: int | None,
    raw: bool,
    reading: ReadingOptions,
    decode_key: Callable[[str], bytes],
    connection: Connection,
    output: OutputFormat,
) -> None:
    """Print the value of KEY, byte for byte.

    On a terminal a line end follows, and a value that could drive the terminal is shown
    escaped. Exits with 1 if there is no such key. With --json: key and value as base64
    and, if they are UTF-8, as text, and the revisions.
    """
    data = decode_key(key)
    request = kv_pb2.Range(key=data, revision=revision or 0)
    result, header = run(connection, lambda store: store.read(request, reading.level))
    if output is not OutputFormat.JSON or not result.kvs:
        explain_on_stderr(header, reading, request.revision)
    if not result.kvs:
        raise CommandFailed(f"no such key: {printable(data)}", code=ExitCode.NEGATIVE)
    (pair,) = result.kvs
    if output is OutputFormat.JSON:
        fields = pair_json(pair)
        if reading.explain:
            fields["explained"] = explanation_json(
                header, reading.level, request.revision
            )
        print_json(fields)
    elif raw or not stdout_is_terminal():
        _write_exactly(pair.value)
    elif _is_plain(pair.value):
        _write_exactly(pair.value + b"\n")
    else:
        click.echo(printable(pair.value))
        note("Note: shown escaped; --raw or a pipe gives the exact bytes.")


@click.command(
    "range",
    short_help="List keys in order.",
    epilog=examples(
        "kvstore range",
        "kvstore range --prefix user/ --limit 10",
        "kvstore range a m --sort-by mod --descending",
        "kvstore range --prefix user/ --count-only",
        "kvstore range --prefix user/ --json | jq -r .key.text",
    ),
)
@click.argument("key", required=False)
@click.argument("range_end", required=False)
@click.option("--prefix", metavar="PREFIX", help="All keys that begin with PREFIX.")
@click.option("--from-key", is_flag=True, help="All keys from KEY on.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Print N pairs at most.  [default: all]",
)
@click.option(
    "--sort-by",
    type=click.Choice(list(SORT_TARGETS)),
    default="key",
    show_default=True,
    help="By key, number of writes, creation, last change, or value.",
)
@click.option("--descending", is_flag=True, help="The greatest first.")
@click.option("--keys-only", is_flag=True, help="Leave the values out.")
@click.option("--count-only", is_flag=True, help="Print the number of keys only.")
@click.option(
    "--revision",
    type=click.IntRange(min=1),
    metavar="N",
    help="Read as of this revision.  [default: the newest]",
)
@reading_options
@key_format_option
@connection_options
@output_option
@reads_only
def range_(
    *,
    key: str | None,
    range_end: str | None,
    prefix: str | None,
    from_key: bool,
    limit: int | None,
    sort_by: str,
    descending: bool,
    keys_only: bool,
    count_only: bool,
    revision: int | None,
    reading: ReadingOptions,
    decode_key: Callable[[str], bytes],
    connection: Connection,
    output: OutputFormat,
) -> None:
    """List pairs: of KEY, of KEY up to but without RANGE_END, or of a prefix.

    Without any, all keys. A large range is read in pages, all as of one revision;
    --timeout holds for each page. The table shows long values cut; --json prints one
    line a pair, exactly, and leaves --explain on stderr. CREATED and MODIFIED are
    revisions, VERSION counts the writes to the key.
    """
    span = choose_range(
        key=key,
        range_end=range_end,
        prefix=prefix,
        from_key=from_key,
        decode=decode_key,
    ) or prefix_range(b"")
    order = kv_pb2.Range.DESCEND if descending else kv_pb2.Range.ASCEND
    request = kv_pb2.Range(
        key=span.key,
        range_end=span.range_end,
        limit=limit or 0,
        revision=revision or 0,
        sort_order=order,
        sort_target=SORT_TARGETS[sort_by],
        keys_only=keys_only,
        count_only=count_only,
    )
    if count_only:
        _print_count(connection, request, reading, output)
        return
    run(connection, lambda store: _print_range(store, request, reading, output))


async def _print_range(
    store: Store, request: kv_pb2.Range, reading: ReadingOptions, output: OutputFormat
) -> None:
    printed = 0
    reader = Reader(store, reading.level)
    async for page in read_pages(reader, request):
        if output is OutputFormat.JSON:
            for pair in page.kvs:
                print_json_line(pair_json(pair, keys_only=request.keys_only))
        elif page.kvs:
            print_pairs(page.kvs, keys_only=request.keys_only, header=not printed)
        printed += len(page.kvs)
    if page.more:
        note(f"There are more keys than the {human_count(printed)} printed.")
    elif output is OutputFormat.TABLE and not printed:
        note("No keys.")
    explain_on_stderr(reader.header, reading, request.revision)


def _print_count(
    connection: Connection,
    request: kv_pb2.Range,
    reading: ReadingOptions,
    output: OutputFormat,
) -> None:
    result, header = run(connection, lambda store: store.read(request, reading.level))
    if output is not OutputFormat.JSON:
        click.echo(result.count)
        explain_on_stderr(header, reading, request.revision)
        return
    fields: dict[str, Json] = {"count": result.count, "revision": result.revision}
    if reading.explain:
        fields["explained"] = explanation_json(header, reading.level, request.revision)
    print_json(fields)


def _write_exactly(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _is_plain(value: bytes) -> bool:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return False
    return all(
        character.isprintable() or character in _PLAIN_CONTROLS for character in text
    )
