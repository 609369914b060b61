"""A process of its own for code with a mutant, and what is asked of it.

A :class:`Worker` starts one and calls functions there, by name; arguments and results
are JSON. One process serves any number of calls, so the cost of its start is paid once
for many seeds::

    with Worker("M11") as worker:
        for seed in range(100):
            found = worker.call("some.module:function", seed)

A call that raises ends the process: nobody knows what the error left behind. Functions
return what they expect to find.
"""

import json
import os
import subprocess
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from types import TracebackType
from typing import IO, Self

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

CALL_S_MAX = 120.0
"""How long a call may take unless its caller says otherwise."""


class WorkerFailed(Exception):
    """A call raised, did not end in time, or its process died."""

    def __init__(self, error: str, text: str, trace: str) -> None:
        super().__init__(f"{error}: {text}")
        self.error = error
        """Name of the error's class; ``TimeoutError``; or how the process ended."""
        self.text = text
        """What the error says."""
        self.trace = trace
        """The traceback there, if there is one."""


class Worker:
    """A process with a mutant, or without one if ``mutant_id`` is None. To be entered.

    Raises:
        WorkerFailed: by any call; the worker is of no use afterwards.
    """

    def __init__(self, mutant_id: str | None = None) -> None:
        self._mutant_id = mutant_id
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        package = __name__.rpartition(".")[0]
        run = ["-m", package, self._mutant_id, "--"] if self._mutant_id else []
        self._process = subprocess.Popen(
            [sys.executable, *run, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        process = self._process
        assert process is not None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # a question that was never read
                pipe.close()
        process.wait()

    def call(
        self, function: str, *arguments: Json, timeout_s: float = CALL_S_MAX
    ) -> Json:
        """Call ``module:name`` there, and return what it returns.

        Raises:
            WorkerFailed: it raised, or took longer than ``timeout_s``.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(timeout_s, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps([function, arguments]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            expired = not timer.is_alive()
            timer.cancel()
        if not line:
            if expired:
                raise WorkerFailed("TimeoutError", f"no end in {timeout_s:g} s", "")
            raise WorkerFailed("exit", f"with code {process.wait()}", "")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"], answer["text"], answer["trace"])
        result: Json = answer["result"]
        return result


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Answer calls until there are no more: the worker's end of the pipe."""
    for line in questions:
        name, arguments = json.loads(line)
        module, _, function = name.partition(":")
        with _Failing(answers):
            result = getattr(import_module(module), function)(*arguments)
            _send(answers, {"result": result})


class _Failing:
    """Tells the other end of an error, which goes on and ends the process."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers = answers

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            return
        answer: dict[str, Json] = {
            "error": type(error).__name__,
            "text": str(error),
            "trace": "".join(traceback.format_exception(error)),
        }
        _send(self._answers, answer)
        os._exit(1)  # the error is told; nothing here is worth an orderly end


def _send(answers: IO[str], answer: dict[str, Json]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _main() -> None:
    # What the code under test prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    _main()
