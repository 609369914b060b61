"""Detached processes: start, recognise, signal and account for them (Linux only).

A process is recognised by its pid *and* the moment it started. A pid alone is reused
by the kernel sooner or later, and a signal to a reused pid hits a stranger. Signals go
through a pidfd, which closes the gap between the check and the signal.

Processes are started with ``posix_spawn`` in a session of their own: they outlive the
command that started them, and Ctrl-C in a terminal does not reach them.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

POLL_INTERVAL_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStat:
    """One reading of ``/proc/PID/stat``."""

    state: str
    """One letter, as in proc(5): R, S, D, T (stopped), Z (zombie)..."""
    start_ticks: int
    """Clock ticks since boot at which the process started."""
    cpu_seconds: float
    """User and system time of the process and its threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """Names one process for good, across pid reuse and reboots."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The identity of a process that exists now, else None."""
        stat = read_stat(pid)
        if stat is None:
            return None
        return cls(pid=pid, start_ticks=stat.start_ticks, boot_id=read_boot_id())

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """What ``save`` wrote. None if there is no file, or it is not one of ours."""
        try:
            fields = json.loads(path.read_text())
            return cls(
                pid=int(fields["pid"]),
                start_ticks=int(fields["start_ticks"]),
                boot_id=str(fields["boot_id"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, path: Path) -> None:
        write_atomically(
            path,
            json.dumps(
                {
                    "pid": self.pid,
                    "start_ticks": self.start_ticks,
                    "boot_id": self.boot_id,
                }
            ),
        )

    def stat(self) -> ProcessStat | None:
        """A reading of this very process; None once it is gone or a zombie.

        Reaps it first if it is a child of the caller, so that nothing stays behind.
        """
        stat = read_stat(self.pid)
        if stat is None or stat.start_ticks != self.start_ticks:
            return None
        if stat.state in "ZX":
            # Not a child of ours, as after a second `cluster up`: init reaps it.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
            return None
        return stat if self.boot_id == read_boot_id() else None

    def is_alive(self) -> bool:
        return self.stat() is not None

    def is_paused(self) -> bool:
        stat = self.stat()
        return stat is not None and stat.state == "T"

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal to this process and no other. False if it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            # The pidfd now pins whatever process has the pid: check that it is ours.
            if self.stat() is None:
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def wait_gone(self, timeout_s: float) -> bool:
        """Wait until the process is gone. False if the time runs out first."""
        deadline = time.monotonic() + timeout_s
        while self.is_alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_INTERVAL_S)
        return True


def spawn(
    command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
) -> ProcessIdentity:
    """Start a detached process. Both outputs are appended to ``log``.

    Raises OSError if it cannot be started.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        pid = os.posix_spawnp(
            command[0],
            list(command),
            os.environ if environment is None else environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, descriptor, 1),
                (os.POSIX_SPAWN_DUP2, descriptor, 2),
            ],
            setsid=True,
            # A caller may ignore or block signals that the new process must get.
            setsigmask=[],
            setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
        )
    finally:
        os.close(descriptor)
    identity = ProcessIdentity.of(pid)
    # A child that has ended is a zombie until waited for, so it is still there.
    assert identity is not None
    return identity


def stop_all(processes: Sequence[ProcessIdentity], *, grace_s: float) -> None:
    """SIGTERM, wait up to ``grace_s`` seconds in all, then SIGKILL what is left."""
    for process in processes:
        process.signal(signal.SIGTERM)
        # A stopped process acts on SIGTERM only once it runs again.
        process.signal(signal.SIGCONT)
    deadline = time.monotonic() + grace_s
    for process in processes:
        if not process.wait_gone(max(0.0, deadline - time.monotonic())):
            process.signal(signal.SIGKILL)
    for process in processes:
        # Only uninterruptible sleep outlives SIGKILL; the kernel ends it soon.
        process.wait_gone(5.0)


def read_stat(pid: int) -> ProcessStat | None:
    """Read ``/proc/PID/stat``; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name, in parentheses, may hold spaces and parentheses itself.
    fields = text[text.rindex(")") + 2 :].split()
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    return ProcessStat(
        state=fields[0],
        start_ticks=int(fields[19]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / ticks_per_second,
    )


def machine_cpu_seconds() -> float:
    """CPU time spent by everything on this machine since boot, interrupts included."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy / os.sysconf("SC_CLK_TCK")


def read_boot_id() -> str:
    """Names this boot of the machine; process ids and start times hold within one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a crash leaves either the old text or the new one."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with scratch.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
