"""What the demo shows while it runs: live on a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from kvcluster.status import ClusterStatus, ProcessState

LINES_OF_PROGRESS = 10
"""Off a terminal, progress is worth this many lines."""


class Screen(Protocol):
    """Where the demo reports to."""

    def say(self, text: str) -> None:
        """Something happened."""

    def loaded(self, count: int) -> None:
        """So many keys are acknowledged."""

    def verified(self, node_id: int, count: int) -> None:
        """So many keys were read back through a node."""

    def roles(self, status: ClusterStatus) -> None:
        """What the nodes are now."""


@contextmanager
def open_screen(total: int, node_ids: Sequence[int]) -> Iterator[Screen]:
    """The screen that fits stdout."""
    console = Console(highlight=False)
    if not console.is_terminal:
        yield PlainScreen(total)
        return
    screen = LiveScreen(console, total, node_ids)
    with Live(screen.view, console=console, refresh_per_second=8, transient=True):
        yield screen


class PlainScreen:
    """Lines, for a pipe or a log."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._next = 1

    def say(self, text: str) -> None:
        print(text, flush=True)

    def loaded(self, count: int) -> None:
        if count * LINES_OF_PROGRESS >= self._next * self._total:
            self.say(f"{count}/{self._total} acknowledged")
            self._next += 1

    def verified(self, node_id: int, count: int) -> None:
        pass

    def roles(self, status: ClusterStatus) -> None:
        pass


class LiveScreen:
    """Bars and the roles of the nodes, with events scrolling by above."""

    def __init__(self, console: Console, total: int, node_ids: Sequence[int]) -> None:
        self._console = console
        self._roles = Text()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=console,
        )
        self._loading = self._progress.add_task("acknowledged", total=total)
        self._reading = {
            node_id: self._progress.add_task(
                f"read back through node {node_id}", total=total, visible=False
            )
            for node_id in node_ids
        }
        self.view = Group(self._roles, self._progress)

    def say(self, text: str) -> None:
        self._console.print(text)

    def loaded(self, count: int) -> None:
        self._progress.update(self._loading, completed=count)

    def verified(self, node_id: int, count: int) -> None:
        self._progress.update(self._reading[node_id], completed=count, visible=True)

    def roles(self, status: ClusterStatus) -> None:
        self._roles.plain = ""
        for node in status.nodes:
            if node.process is ProcessState.DOWN:
                role, style = "down", "bold red"
            else:
                role = node.role or "starting"
                style = "bold green" if role == "leader" else ""
            self._roles.append(f"node {node.node_id} ")
            self._roles.append(f"{role:<12}", style=style)
