"""A process that has loaded torch, and on request the model, and forks a real `restorectl`.

`python -m tests.server` reads a JSON request a line and answers with a line: {"argv", "cwd",
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

ROOT = Path(__file__).parents[1]


class Server:
    """The test's side. with_model: the packaged prior is loaded too, once for all runs."""

    def __init__(self, with_model=False):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.server", *(["model"] if with_model else [])],
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

    def start(self, *argv, cwd, out="/dev/null", err="/dev/null", env=None, **more):
        """Begin a run with the variables `env`, by default our own, and `more`; its process id."""
        words = [str(word) for word in argv]
        variables = dict(os.environ if env is None else env) | more
        return self._ask(argv=words, cwd=str(cwd), out=str(out), err=str(err), env=variables)

    def wait(self, pid):
        return self._ask(wait=pid)

    def peak(self):
        """The most memory that a run has held so far, in bytes."""
        return self._ask(peak=True)

    def run(self, *argv, cwd, err=None, **more):
        """A whole run: (exit code, what it wrote to stderr)."""
        err = err or Path(cwd, ".stderr")
        code = self.wait(self.start(*argv, cwd=cwd, err=err, **more))
        return code, err.read_text(errors="backslashreplace")

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


def serve(with_model):
    import torch
    from typer.testing import CliRunner

    from restorectl.cli import app, options
    from restorectl.engine import runner
    from restorectl.evaluation import evaluate  # noqa: F401 (loaded for the forks)
    from restorectl.restoration import calibrate, restore, restorer, uncertainty  # noqa: F401
    from restorectl.training import train  # noqa: F401
    from restorectl.volumes import superres3d  # noqa: F401

    torch.set_num_threads(1)
    CliRunner().invoke(app.app, ["restore", "-o", "."])  # typer loads the rest when it parses
    if with_model:
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
        os.environ.clear()
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
    serve("model" in sys.argv[1:])
