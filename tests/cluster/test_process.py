"""Detached processes are recognised by more than a pid."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kvcluster.process import (
    ProcessIdentity,
    read_stat,
    spawn,
    stop_all,
    write_atomically,
)

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


@pytest.fixture
def sleeper(tmp_path: Path) -> ProcessIdentity:
    return spawn(SLEEP, log=tmp_path / "log")


def test_a_spawned_process_has_a_session_and_a_log_of_its_own(
    sleeper: ProcessIdentity, tmp_path: Path
) -> None:
    """Ctrl-C in the terminal of the command must not reach it."""
    try:
        assert os.getsid(sleeper.pid) == sleeper.pid
        log = tmp_path / "log"
        while "up" not in log.read_text():
            assert sleeper.is_alive()
    finally:
        stop_all([sleeper], grace_s=5.0)
    assert not sleeper.is_alive()
    assert read_stat(sleeper.pid) is None


def test_a_reused_pid_is_never_signalled(sleeper: ProcessIdentity) -> None:
    """Goal: the same pid with another start time, or another boot, is a stranger."""
    try:
        for stranger in (
            replace(sleeper, start_ticks=sleeper.start_ticks - 1),
            replace(sleeper, boot_id="another boot"),
        ):
            assert not stranger.is_alive()
            assert not stranger.signal(signal.SIGKILL)
        assert sleeper.is_alive()
    finally:
        stop_all([sleeper], grace_s=5.0)


def test_a_zombie_counts_as_gone_and_is_reaped(tmp_path: Path) -> None:
    process = spawn([sys.executable, "-c", ""], log=tmp_path / "log")
    assert process.wait_gone(10.0)
    with pytest.raises(ChildProcessError):
        os.waitpid(process.pid, os.WNOHANG)
    assert not process.signal(signal.SIGTERM)


def test_stop_kills_what_ignores_sigterm(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('deaf', flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    process = spawn([sys.executable, "-c", code], log=log)
    try:
        while "deaf" not in log.read_text():
            assert process.is_alive()
        stop_all([process], grace_s=0.1)
        assert not process.is_alive()
    finally:
        process.signal(signal.SIGKILL)


def test_stop_ends_a_paused_process_gracefully(tmp_path: Path) -> None:
    """Goal: it acts on SIGTERM itself; SIGKILL after the grace would end it, too."""
    code = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    print('good end', flush=True)\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('up', flush=True)\n"
        "time.sleep(60)"
    )
    log = tmp_path / "log"
    process = spawn([sys.executable, "-c", code], log=log)
    try:
        while "up" not in log.read_text():
            assert process.is_alive()
        process.signal(signal.SIGSTOP)
        while not process.is_paused():
            assert process.is_alive()
        stop_all([process], grace_s=30.0)
        assert not process.is_alive()
        assert "good end" in log.read_text()
    finally:
        process.signal(signal.SIGKILL)


def test_an_identity_survives_its_file(
    sleeper: ProcessIdentity, tmp_path: Path
) -> None:
    try:
        sleeper.save(tmp_path / "process")
        assert ProcessIdentity.load(tmp_path / "process") == sleeper
    finally:
        stop_all([sleeper], grace_s=5.0)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": null}'])
def test_a_damaged_identity_file_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "process").write_text(text)
    assert ProcessIdentity.load(tmp_path / "process") is None


def test_writing_atomically_leaves_no_scratch_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "record", "old")
    write_atomically(tmp_path / "record", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["record"]
    assert (tmp_path / "record").read_text() == "new"


def test_a_command_name_with_parentheses_does_not_confuse_stat(tmp_path: Path) -> None:
    """proc(5): the name is in parentheses and may hold any character but NUL."""
    odd = tmp_path / "a) S 1 (b"
    odd.symlink_to(sys.executable)
    process = spawn([str(odd), "-c", "import time; time.sleep(60)"], log=tmp_path / "l")
    try:
        stat = process.stat()
        assert stat is not None
        assert stat.start_ticks == process.start_ticks > 0
    finally:
        stop_all([process], grace_s=5.0)
