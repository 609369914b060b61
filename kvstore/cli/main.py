"""The ``kvstore`` command: what there is, and what endings mean.

Importing this must stay cheap (a test measures it): commands are imported when used.
"""

import os
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import ClassVar

import click

from kvstore.cli.errors import EXIT_CODE_MEANINGS, ExitCode, exit_codes
from kvstore.cli.lazy import LazyCommand, LazyGroup
from kvstore.cli.options import examples, global_connection_options
from kvstore.cli.output import colour_wanted

_DATA = "Data"
_NODES = "Nodes and clusters"
_TOOLS = "Tools"

_EXAMPLES = (
    "kvstore put greeting hello",
    "kvstore get greeting",
    "kvstore range --prefix user/ --json",
    "kvstore --endpoints 10.0.0.1:7400,10.0.0.2:7400 status",
)


class KvstoreGroup(LazyGroup):
    """Every command, by name."""

    lazy_commands: ClassVar[Mapping[str, LazyCommand]] = {
        "put": LazyCommand(
            section=_DATA,
            module="kvstore.cli.write_commands",
            attribute="put",
            short_help="Write a key.",
        ),
        "get": LazyCommand(
            section=_DATA,
            module="kvstore.cli.read_commands",
            attribute="get",
            short_help="Print the value of a key.",
        ),
        "range": LazyCommand(
            section=_DATA,
            module="kvstore.cli.read_commands",
            attribute="range_",
            short_help="List keys in order.",
        ),
        "delete": LazyCommand(
            section=_DATA,
            module="kvstore.cli.write_commands",
            attribute="delete",
            short_help="Delete a key or a range of keys.",
        ),
        "txn": LazyCommand(
            section=_DATA,
            module="kvstore.cli.txn_command",
            attribute="txn",
            short_help="Compare, then run one list of operations or another, at once.",
        ),
        "compact": LazyCommand(
            section=_DATA,
            module="kvstore.cli.write_commands",
            attribute="compact",
            short_help="Give up history below a revision.",
        ),
        "init": LazyCommand(
            section=_NODES,
            module="kvstore.cli.node_commands",
            attribute="init",
            short_help="Found a member: write its new data directory.",
        ),
        "serve": LazyCommand(
            section=_NODES,
            module="kvstore.cli.node_commands",
            attribute="serve",
            short_help="Run a node.",
        ),
        "status": LazyCommand(
            section=_NODES,
            module="kvstore.cli.status_command",
            attribute="status",
            short_help="Show whether the cluster is healthy, node by node.",
        ),
        "member": LazyCommand(
            section=_NODES,
            module="kvstore.cli.member_commands",
            attribute="member",
            short_help="Show and change the members of the cluster.",
        ),
        "leader": LazyCommand(
            section=_NODES,
            module="kvstore.cli.leader_commands",
            attribute="leader",
            short_help="Show the leader, or have it hand over.",
        ),
        "snapshot": LazyCommand(
            section=_NODES,
            module="kvstore.cli.snapshot_commands",
            attribute="snapshot",
            short_help="Save the store to a file, check it, restore it.",
        ),
        "recover": LazyCommand(
            section=_NODES,
            module="kvstore.cli.snapshot_commands",
            attribute="recover",
            short_help="Start anew from one survivor of a cluster that lost its "
            "majority.",
        ),
        "scrub": LazyCommand(
            section=_NODES,
            module="kvstore.cli.scrub_commands",
            attribute="scrub",
            short_help="What the checks of stored records found.",
        ),
        "cluster": LazyCommand(
            section=_TOOLS,
            module="kvstore.cli.cluster_commands",
            attribute="cluster",
            short_help="Run a cluster of local processes, to try and to break.",
        ),
        "bench": LazyCommand(
            section=_TOOLS,
            module="kvstore.cli.bench_commands",
            attribute="bench",
            short_help="Measure clusters of real processes on this machine.",
        ),
        "sim": LazyCommand(
            section=_TOOLS,
            module="kvstore.cli.sim_commands",
            attribute="sim",
            short_help="Run clusters in virtual time under random faults, and check "
            "every step.",
        ),
        "completion": LazyCommand(
            section=_TOOLS,
            module="kvstore.cli.completion_command",
            attribute="completion",
            short_help="Print the shell's completion script.",
        ),
    }

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; errors of kvstore end it with their exit code."""
        with exit_codes():
            return super().invoke(ctx)

    def format_epilog(
        self, _ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the exit codes and examples."""
        with formatter.section("Exit codes"):
            formatter.write_dl(
                [(str(int(code)), words) for code, words in EXIT_CODE_MEANINGS.items()]
            )
        formatter.write(examples(*_EXAMPLES).replace("\b\n", "\n") + "\n")


def _print_version(
    context: click.Context, _option: click.Parameter, wanted: bool
) -> None:
    if not wanted or context.resilient_parsing:
        return
    from importlib.metadata import version

    click.echo(f"kvstore {version('kvstore')}")
    context.exit()


@click.group(
    cls=KvstoreGroup,
    name="kvstore",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96},
)
@global_connection_options
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
def cli() -> None:
    """A durable, replicated key-value store on Raft.

    Options stand before the command or after it. Results go to stdout; notes and
    errors go to stderr. Colour needs a terminal and no NO_COLOR in the environment.
    """


def main() -> None:
    """Run the command line and exit. The console script."""
    sys.excepthook = _exit_as_bug
    cli(color=None if colour_wanted() else False)


def _exit_as_bug(
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType | None,
) -> None:
    # Python would exit with 1, which means "the answer is no" here.
    sys.__excepthook__(kind, error, traceback)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ExitCode.INTERNAL)


if __name__ == "__main__":
    main()
