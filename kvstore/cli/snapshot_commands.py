"""``kvstore snapshot`` and ``kvstore recover``: backups, and what is made of them."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import click

from kvstore.cli.errors import CommandFailed, ExitCode
from kvstore.cli.node_commands import (
    making,
    parse_cluster_id,
    parse_members,
    serve_command,
)
from kvstore.cli.options import (
    Connection,
    connection_options,
    examples,
    output_option,
    parse_address,
    reads_only,
)
from kvstore.cli.output import Json, OutputFormat, note, print_json
from kvstore.types import EPOCH_MAX, NODE_ID_MAX

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(short_help="Save the store to a file, check it, restore it.")
def snapshot() -> None:
    """Save the whole store to a file, check such a file, start a cluster from it."""


@snapshot.command(
    short_help="Save the store to a file, while it is written.",
    epilog=examples("kvstore snapshot save backup.snap"),
)
@click.argument("file", type=_FILE)
@connection_options
@output_option
@reads_only
def save(*, file: Path, connection: Connection, output: OutputFormat) -> None:
    """Save what a node has committed, as of one moment. Writes go on meanwhile.

    FILE appears whole and synced, or not at all.
    """
    from kvstore.client import admin
    from kvstore.storage.snapshot_file import SnapshotFile

    size = asyncio.run(
        admin.save_snapshot(connection.endpoints, file, connection.timeout_s)
    )
    with SnapshotFile.open(file) as saved:
        info = saved.info
    if output is OutputFormat.JSON:
        print_json({"file": str(file), "bytes": size, **_info_json(info)})
        return
    click.echo(
        f"Saved revision {info.revision} of cluster {info.cluster_id} from node "
        f"{info.node_id}: {size:,} bytes in {file}."
    )
    note(f"Check it with `kvstore snapshot verify {file}`.")


@snapshot.command(
    short_help="Check every record of a snapshot file.",
    epilog=examples("kvstore snapshot verify backup.snap"),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@output_option
def verify(*, file: Path, output: OutputFormat) -> None:
    """Check every block and every record of FILE. Exit code 6 if one is damaged.

    Needs as much room beside FILE as the store is large, for a while.
    """
    from kvstore.storage.snapshot_file import verify as check

    found = check(file)
    if output is OutputFormat.JSON:
        print_json(
            {"file": str(file), "digest": found.digest, **_info_json(found.info)}
        )
        return
    info = found.info
    click.echo(
        f"{file} is whole: revision {info.revision} of cluster {info.cluster_id}, "
        f"epoch {info.epoch}, saved by node {info.node_id}; digest {found.digest}."
    )


@snapshot.command(
    short_help="Make a member of a new cluster out of a snapshot.",
    epilog=examples(
        "kvstore snapshot restore backup.snap --dir data --node-id 1 \\",
        "    --member 1=127.0.0.1:7400",
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Data directory to create; it may exist if it is empty.",
)
@click.option(
    "--node-id",
    type=click.IntRange(1, NODE_ID_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="Which of the members this node is.",
)
@click.option(
    "--member",
    "members",
    multiple=True,
    metavar="ID=HOST:PORT",
    callback=lambda _context, _option, texts: parse_members(texts) if texts else {},
    help="A founding member of the new cluster, repeated for all of them.  "
    "[default: this node alone, at 127.0.0.1:7400]",
)
@click.option(
    "--cluster-id",
    metavar="HEX",
    callback=lambda _context, _option, text: parse_cluster_id(text),
    help="Of the new cluster: drawn for the first member, and the same for the others.",
)
@click.option(
    "--last-known-epoch",
    type=click.IntRange(0, EPOCH_MAX),
    default=0,
    metavar="E",
    help="The highest epoch that clients may have seen, if it is above the file's.",
)
@output_option
def restore(
    *,
    file: Path,
    directory: Path,
    node_id: int,
    members: Mapping[int, str],
    cluster_id: bytes | None,
    last_known_epoch: int,
    output: OutputFormat,
) -> None:
    """Make a founding member of a NEW cluster out of FILE.

    Run it for each member with the same FILE, --cluster-id and --member list. Revisions
    go on from the snapshot's, in a higher epoch. Members of the old cluster are refused
    by the new one, and client sessions are over.
    """
    from kvstore.founding import checked_members, new_cluster_id, new_incarnation
    from kvstore.storage.restoring import restore as make
    from kvstore.types import ClusterId, NodeId

    members = members or {node_id: "127.0.0.1:7400"}
    if node_id not in members:
        raise click.UsageError(f"--node-id {node_id} is not among the members")
    drawn = cluster_id is None
    cluster = cluster_id or new_cluster_id()
    with making(directory):
        info, epoch = make(
            file,
            directory,
            cluster_id=ClusterId(cluster),
            node_id=NodeId(node_id),
            incarnation=new_incarnation(),
            members=checked_members(members),
            last_known_epoch=last_known_epoch,
        )
    if output is OutputFormat.JSON:
        print_json(
            {
                "directory": str(directory),
                "node_id": node_id,
                "cluster_id": cluster.hex(),
                "epoch": epoch,
                "revision": info.revision,
                "from": _info_json(info),
            }
        )
        return
    click.echo(
        f"Restored node {node_id} of the new cluster {cluster.hex()} in {directory}: "
        f"revision {info.revision}, epoch {epoch}."
    )
    if drawn and len(members) > 1:
        note(f"Restore the others with --cluster-id {cluster.hex()}.")
    note(f"Start it with `{serve_command(directory, members[node_id])}`.")


@click.command(
    short_help="Start anew from one survivor of a cluster that lost its majority.",
    epilog=examples("kvstore recover --dir data --address 127.0.0.1:7400"),
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Data directory of the survivor, which does not run.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="Where it will serve.  [default: where it did]",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
def recover(
    *, directory: Path, address: str | None, yes: bool, output: OutputFormat
) -> None:
    """Make the only member of a NEW cluster out of one survivor of an old one.

    The last resort, when a majority is lost for good: what the lost members had
    acknowledged and this one had not received is LOST. What this one had received is
    kept, also if it was never acknowledged. Choose the survivor with the highest last
    log term, and of those the highest last log index (`kvstore status --json` of each
    while it runs). The others must not be started again: they
    belong to the old cluster, and are refused. Add new members under new ids.
    """
    from kvstore.founding import new_cluster_id, new_incarnation
    from kvstore.storage.restoring import recover as rebuild
    from kvstore.types import ClusterId

    if not yes:
        note(
            "Writes that the lost members had acknowledged, and this one did not "
            "receive, will be lost for good. Clients may have seen them."
        )
        if not click.confirm("Start a new cluster from this member?", err=True):
            raise CommandFailed("nothing was changed", code=ExitCode.NEGATIVE)
    with making(directory):
        made = rebuild(
            directory,
            cluster_id=ClusterId(new_cluster_id()),
            incarnation=new_incarnation(),
            address=None if address is None else parse_address(address),
        )
    if output is OutputFormat.JSON:
        print_json(
            {
                "directory": str(directory),
                "node_id": made.new.node_id,
                "old_cluster_id": None if made.old is None else made.old.hex(),
                "cluster_id": made.new.cluster_id.hex(),
                "epoch": made.new.epoch,
                "revision": made.revision,
                "applied_index": made.applied_index,
                "last_index": made.last_index,
                "entries_in_doubt": made.in_doubt,
            }
        )
        return
    click.echo(
        f"Node {made.new.node_id} is the only member of the new cluster "
        f"{made.new.cluster_id.hex()}, epoch {made.new.epoch}."
    )
    note(
        f"Kept: everything applied, to entry {made.applied_index} and revision "
        f"{made.revision}, and {made.in_doubt} entries behind it of which nobody can "
        "tell whether they were acknowledged. Lost: whatever only members of "
        "the old cluster had received that are gone. Do not start those "
        "again."
    )
    note(
        f"Start it with `{serve_command(directory, made.address)}`; then add new "
        "members under new ids."
    )


def _info_json(info: object) -> dict[str, Json]:
    from dataclasses import asdict

    from kvstore.storage.snapshot_file import SnapshotInfo

    assert isinstance(info, SnapshotInfo)
    facts: dict[str, Json] = asdict(info)
    facts["configuration"] = json.loads(info.configuration)
    return facts
