"""A process that has loaded torch and the model once, and forks a real `restorectl` on request.

`python -m tests.chaos.server` reads a JSON request a line and answers with a line: {"argv", "cwd",
"env", "out", "err"} starts a run and answers its process id, {"wait": pid} answers its exit code,
negative for the signal that ended it.
"""

import functools
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Server:
    """The test's side."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.server"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *argv, cwd, out="/dev/null", err="/dev/null", **env):
        """Begin a run; returns its process id."""
        words = [str(word) for word in argv]
        return self._ask(argv=words, cwd=str(cwd), out=str(out), err=str(err), env=env)

    def wait(self, pid):
        return self._ask(wait=pid)

    def peak(self):
        """The most memory that a run has held so far, in bytes."""
        return self._ask(peak=True)

    def run(self, *argv, cwd, err=None, **env):
        """A whole run: (exit code, what it wrote to stderr)."""
        err = err or Path(cwd, ".stderr")
        code = self.wait(self.start(*argv, cwd=cwd, err=err, **env))
        return code, err.read_text(errors="backslashreplace")

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


def serve():
    import torch
    from typer.testing import CliRunner

    from restorectl.cli import app, options
    from restorectl.engine import runner
    from restorectl.restoration import restore, restorer  # noqa: F401 (loaded for the forks)

    torch.set_num_threads(1)
    CliRunner().invoke(app.app, ["restore", "-o", "."])  # typer loads the rest when it parses
    restorer.load = functools.cache(restorer.load)
    warm = restorer.load("prior", "prior", options.Models(registry=None, offline=False))
    build, built = runner.build, runner.build(warm.card, dict(warm.tensors))
    runner.build = lambda card, tensors: built if card is warm.card else build(card, tensors)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        elif "peak" in request:
            answer = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
        else:
            answer = os.fork()
            if answer == 0:
                _become(app.main, request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _become(main, request):
    """The child: a process as the shell would have started it."""
    code = 1
    try:
        for number, key in ((1, "out"), (2, "err")):
            os.dup2(os.open(request[key], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(request["cwd"])
        os.environ.update(request["env"])
        sys.argv = ["restorectl", *request["argv"]]
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    serve()
