"""``kvstore init`` and ``kvstore serve``."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from kvstore.cli.errors import CommandFailed, ExitCode
from kvstore.cli.options import examples, output_option, parse_address
from kvstore.cli.output import Json, OutputFormat, note, print_json
from kvstore.config import Config, is_loopback
from kvstore.types import CLUSTER_ID_BYTES, NODE_ID_MAX

_SETTINGS_WITH_OPTIONS = frozenset(
    {"data_dir", "listen", "peer_addresses", "insecure", "metrics", "network"}
    | {"election_timeout_ms", "heartbeat_interval_ms"}
)
_TRUTHS = {
    "true": True,
    "on": True,
    "1": True,
    "false": False,
    "off": False,
    "0": False,
}


# ---------------------------------------------------------------------- init


@click.command(
    short_help="Found a member: write its new data directory.",
    epilog=examples(
        "kvstore init --dir data --node-id 1 --member 1=127.0.0.1:7400",
        "kvstore init --join 10.0.0.1:7400 --dir data4 --node-id 4 \\",
        "    --address 10.0.0.4:7400",
        "kvstore init --dir data1 --node-id 1 --member 1=10.0.0.1:7400 \\",
        "    --member 2=10.0.0.2:7400 --member 3=10.0.0.3:7400",
    ),
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Data directory to create; it may exist if it is empty.",
)
@click.option(
    "--node-id",
    type=click.IntRange(1, NODE_ID_MAX),
    required=True,
    metavar="N",
    help="Which of the members this node is. Never reuse the id of a lost disk.",
)
@click.option(
    "--cluster-id",
    metavar="HEX",
    callback=lambda _context, _option, text: parse_cluster_id(text),
    help="32 hexadecimal digits, the same for all members. Left out for the first "
    "member, it is drawn, and the commands for the others are printed.",
)
@click.option(
    "--member",
    "members",
    multiple=True,
    metavar="ID=HOST:PORT",
    callback=lambda _context, _option, texts: parse_members(texts),
    help="A founding member and where it serves, repeated for all of them, this node "
    "included.",
)
@click.option(
    "--join",
    metavar="HOST:PORT",
    callback=lambda _context, _option, text: _parse_optional_address(text),
    help="Found no cluster, but prepare for joining the one that answers there.",
)
@click.option(
    "--address",
    metavar="HOST:PORT",
    callback=lambda _context, _option, text: _parse_optional_address(text),
    help="With --join: where this node will serve.",
)
@output_option
def init(
    *,
    directory: Path,
    node_id: int,
    cluster_id: bytes | None,
    members: Mapping[int, str],
    join: str | None,
    address: str | None,
    output: OutputFormat,
) -> None:
    """Found one member of a new cluster, or prepare one for joining a cluster.

    To found a cluster, run it once for each member, with the same --cluster-id and the
    same --member list. To enlarge one, run it with --join, serve the directory, and add
    the node with `kvstore member add`. A directory that was used before is refused: a
    member that forgot what it promised could make the cluster lose committed data.
    """
    from kvstore.founding import found, new_cluster_id

    if join is not None:
        if members or cluster_id is not None:
            raise click.UsageError("--join asks the cluster for its id and its members")
        if address is None:
            raise click.UsageError("say with --address where this node will serve")
        from kvstore.cli.joining import prepare

        prepare(directory, node_id, address, join, output)
        return
    if address is not None:
        raise click.UsageError("--address goes with --join; found with --member")
    if not members:
        raise click.UsageError("list the founding members with --member, or --join")

    if node_id not in members:
        raise click.UsageError(
            f"--node-id {node_id} is not among the members "
            f"({', '.join(map(str, sorted(members)))}): list all of them, this node too"
        )
    drawn = cluster_id is None
    if cluster_id is None:
        cluster_id = new_cluster_id()
    with making(directory):
        found(directory, node_id=node_id, cluster_id=cluster_id, members=members)
    others = [
        _init_command(directory, other, cluster_id, members)
        for other in sorted(members)
        if other != node_id
    ]
    if output is OutputFormat.JSON:
        print_json(_founded_json(directory, node_id, cluster_id, members, others))
        return
    click.echo(f"Founded node {node_id} of cluster {cluster_id.hex()} in {directory}.")
    if drawn and others:
        click.echo("\nFound the others on their machines (here: with another --dir):")
        for command in others:
            click.echo(f"  {command}")
    click.echo(f"\nStart it:\n  {serve_command(directory, members[node_id])}")
    if len(members) % 2 == 0:
        note(
            f"Note: {len(members)} members tolerate no more failures than "
            f"{len(members) - 1}; an odd number is better."
        )


def _init_command(
    directory: Path, node_id: int, cluster_id: bytes, members: Mapping[int, str]
) -> str:
    member_options = " ".join(
        f"--member {member}={address}" for member, address in sorted(members.items())
    )
    return (
        f"kvstore init --dir {_quoted(directory)} --node-id {node_id} "
        f"--cluster-id {cluster_id.hex()} {member_options}"
    )


def _founded_json(
    directory: Path,
    node_id: int,
    cluster_id: bytes,
    members: Mapping[int, str],
    others: Sequence[str],
) -> dict[str, Json]:
    return {
        "directory": str(directory),
        "node_id": node_id,
        "cluster_id": cluster_id.hex(),
        "members": [
            {"node_id": member, "address": address}
            for member, address in sorted(members.items())
        ],
        "commands_for_other_members": list(others),
    }


# --------------------------------------------------------------------- serve


@click.command(
    short_help="Run a node.",
    epilog=examples(
        "kvstore serve --dir data",
        "kvstore serve --dir data --listen 0.0.0.0:7400 --insecure",
        "kvstore serve --dir data --set value_bytes_max=65536 --set scrub=off",
    ),
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Data directory that `kvstore init` founded.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Address to bind.  [default: the member's own address]",
)
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="ID=HOST:PORT",
    callback=lambda _context, _option, texts: parse_members(texts),
    help="Dial a member at another address than its own, as through a proxy.",
)
@click.option(
    "--election-timeout-ms",
    type=int,
    metavar="MS",
    help="A follower that heard no leader for this long campaigns.  [default: 500]",
)
@click.option(
    "--heartbeat-interval-ms",
    type=int,
    metavar="MS",
    help="A leader is heard this often; at most a third of the election timeout.  "
    "[default: 100]",
)
@click.option(
    "--insecure",
    is_flag=True,
    help="Allow an address that is not loopback: clear text, no authentication. "
    "Anybody who reaches it can read and write everything.",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Serve Prometheus metrics here.  [default: off]",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda _context, _option, texts: _parse_settings(texts),
    help="Change another setting of the node, such as value_bytes_max; repeatable.",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    help="How log lines are written.  [default: text on a terminal, json off it]",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least that is logged.",
)
def serve(
    *,
    directory: Path,
    listen: str | None,
    peers: Mapping[int, str],
    election_timeout_ms: int | None,
    heartbeat_interval_ms: int | None,
    insecure: bool,
    metrics: str | None,
    settings: Mapping[str, float | bool],
    log_format: str | None,
    log_level: str,
) -> None:
    """Run a founded member until SIGTERM or Ctrl-C, which stop it in good order.

    Logs go to stderr. A directory that was not founded is refused; so is one that
    another process uses. A second signal stops the node at once; nothing acknowledged
    is lost then either.
    """
    if not __debug__:
        raise CommandFailed(
            "python -O (PYTHONOPTIMIZE) strips the assertions that guard the data",
            code=ExitCode.DIRECTORY_OR_CONFIG,
            hint="Start it without -O.",
        )
    timing = {
        name: value
        for name, value in (
            ("election_timeout_ms", election_timeout_ms),
            ("heartbeat_interval_ms", heartbeat_interval_ms),
        )
        if value is not None
    }
    config = _config(
        {
            "data_dir": directory,
            "listen": listen,
            "peer_addresses": peers,
            "insecure": insecure,
            "metrics": metrics,
            **settings,
            **timing,
        }
    )
    # gRPC's core writes lines of its own between the events; what they say comes back
    # as statuses and exceptions too. Read when grpc is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from kvstore.cli.run_node import run_node

    run_node(config, log_format=log_format, log_level=log_level)


def _config(settings: Mapping[str, object]) -> Config:
    # The values were checked by click or _parse_settings, name by name.
    return Config(**settings)  # type: ignore[arg-type]


# ------------------------------------------------------------------- parsing


def _parse_optional_address(text: str | None) -> str | None:
    return None if text is None else parse_address(text)


def parse_cluster_id(text: str | None) -> bytes | None:
    """A cluster's id from 32 hexadecimal digits. Raises click's error for others."""
    if text is None:
        return None
    try:
        data = bytes.fromhex(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not hexadecimal") from error
    if len(data) != CLUSTER_ID_BYTES:
        raise click.BadParameter(f"it has {2 * CLUSTER_ID_BYTES} hexadecimal digits")
    return data


def parse_members(texts: Sequence[str]) -> dict[int, str]:
    """Addresses by node id, from ID=HOST:PORT each. Raises click's error for others."""
    members: dict[int, str] = {}
    for text in texts:
        id_text, equals, address = text.partition("=")
        if not (equals and id_text.isascii() and id_text.isdigit()):
            raise click.BadParameter(f"{text!r} is not ID=HOST:PORT")
        node_id = int(id_text)
        if not 1 <= node_id <= NODE_ID_MAX:
            raise click.BadParameter(f"{text!r}: an id is 1 to 2**63 - 1")
        if node_id in members:
            raise click.BadParameter(f"node {node_id} is named twice")
        if address in members.values():
            raise click.BadParameter(f"{address} is named twice")
        members[node_id] = parse_address(address)
    return members


def _parse_settings(texts: Sequence[str]) -> dict[str, float | bool]:
    defaults = {
        name: getattr(Config(data_dir=Path()), name)
        for name in Config.__dataclass_fields__
        if name not in _SETTINGS_WITH_OPTIONS
    }
    settings: dict[str, float | bool] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name in _SETTINGS_WITH_OPTIONS:
            raise click.BadParameter(f"{name} has an option of its own")
        if name not in defaults:
            raise click.BadParameter(f"there is no {name!r}; try {', '.join(defaults)}")
        settings[name] = _parse_setting(name, value, type(defaults[name]))
    return settings


def _parse_setting(name: str, value: str, kind: type) -> float | bool:
    try:
        if kind is bool:
            return _TRUTHS[value.lower()]
        return float(value) if kind is float else int(value)
    except (KeyError, ValueError) as error:
        words: dict[type, str] = {bool: "on or off", float: "a number"}
        wanted = words.get(kind, "a whole number")
        raise click.BadParameter(f"{name} must be {wanted}, not {value!r}") from error


def serve_command(directory: Path, address: str) -> str:
    """What starts a node of ``directory`` that serves at ``address``, for a shell."""
    insecure = "" if is_loopback(address) else " --insecure"
    return f"kvstore serve --dir {_quoted(directory)}{insecure}"


@contextmanager
def making(directory: Path) -> Iterator[None]:
    """Around what writes a data directory: the system's refusals, in words.

    Raises:
        CommandFailed: for an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise CommandFailed(
            f"cannot write {directory}: {error}",
            code=ExitCode.DIRECTORY_OR_CONFIG,
            hint="Nothing was promised to anybody yet: mend the cause, then repeat.",
        ) from error


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
