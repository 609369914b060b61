"""A worker answers any number of calls, and tells how it failed."""

import pytest

from kvstore.simulation.mutants.worker import Worker, WorkerFailed


def test_a_worker_answers_many_calls_in_one_process() -> None:
    """Goal: a start is paid once. Method: ask for its id; the code is mutated there."""
    with Worker("M07") as worker:
        first = worker.call("os:getpid")
        assert worker.call("os:getpid") == first
        assert worker.call("kvstore.raft.quorum:majority", 4) == 2
        assert worker.call("operator:add", [1, "a"], [None]) == [1, "a", None]


def test_a_worker_without_a_mutant_runs_the_real_code() -> None:
    with Worker() as worker:
        assert worker.call("kvstore.raft.quorum:majority", 4) == 3


def test_an_error_arrives_with_its_traceback() -> None:
    with Worker() as worker:
        with pytest.raises(WorkerFailed, match="ZeroDivisionError: division") as failed:
            worker.call("operator:truediv", 1, 0)
        assert failed.value.error == "ZeroDivisionError"
        assert "Traceback" in failed.value.trace
        with pytest.raises(WorkerFailed, match="exit"):
            worker.call("os:getpid")


def test_a_call_that_does_not_end_is_ended() -> None:
    with Worker() as worker:
        assert worker.call("os:getpid")
        with pytest.raises(WorkerFailed, match=r"no end in 0.2 s") as failed:
            worker.call("time:sleep", 60, timeout_s=0.2)
        assert failed.value.error == "TimeoutError"


def test_a_process_that_dies_is_told() -> None:
    with Worker() as worker, pytest.raises(WorkerFailed, match="exit: with code 3"):
        worker.call("os:_exit", 3)


def test_a_mutant_that_does_not_exist_is_told(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Worker("M00") as worker, pytest.raises(WorkerFailed, match="exit"):
        worker.call("os:getpid")
    assert "there is no mutant M00" in capfd.readouterr().err


def test_what_the_code_prints_does_not_disturb(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with Worker() as worker:
        assert worker.call("builtins:print", "a word") is None
    assert capfd.readouterr().err == "a word\n"
