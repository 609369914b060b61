"""``kvstore completion``."""

import click
from click.shell_completion import get_completion_class

from kvstore.cli.options import examples

_SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_KVSTORE_COMPLETE"


@click.command(
    short_help="Print the shell's completion script.",
    epilog=examples(
        "kvstore completion bash > ~/.local/share/bash-completion/completions/kvstore",
        'kvstore completion zsh > "${fpath[1]}/_kvstore"',
        "kvstore completion fish > ~/.config/fish/completions/kvstore.fish",
    ),
)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes kvstore's commands and options in SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None, shell
    root = context.find_root()
    click.echo(kind(root.command, {}, "kvstore", _VARIABLE).source())
