"""A hub on the loopback interface: a real HTTP server that speaks the hub's file protocol.

HEAD /org/name/resolve/REVISION/FILE answers with the commit, the size and the etag, and redirects
to another host name of this server, which serves bytes, ranges too. Attributes make it misbehave.
"""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "lab/models"


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, home: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.home = home  # HF_HOME of the processes that `run` starts
        self.files: dict[str, bytes] = {}  # path in the repository -> content
        self.requests: list[str] = []  # "METHOD path", and the range that was asked for
        self.refuse: dict[str, tuple[int, str]] = {}  # path -> status and X-Error-Code
        self.cut: list[int] = []  # the next transfers end after so many bytes
        self.gone = False  # after the next cut, nothing more is delivered
        self.delay = 0.0  # seconds before a transfer

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self, **more: str) -> dict[str, str]:
        dropped = ("GITHUB_ACTIONS", "FORCE_COLOR", "HF_TOKEN", "RESTORECTL_WEIGHTS")
        env = {k: v for k, v in os.environ.items() if k not in dropped}
        env |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.home), "HF_HUB_DISABLE_XET": "1"}
        return env | {"OMP_NUM_THREADS": "1", "NO_PROXY": "*", "no_proxy": "*"} | more

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "restorectl", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**environment),
        )

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub = self.server
        hub.requests.append(f"{self.command} {self.path}")
        if self.path.startswith("/cdn/"):
            return self._bytes(body)
        for end, (status, code) in hub.refuse.items():
            if self.path.endswith(f"/{end}"):
                return self._head(status, {"X-Error-Code": code})
        for revision in (COMMIT, "main", "v1"):
            name = self.path.removeprefix(f"/{REPO}/resolve/{revision}/")
            if name == self.path:
                continue
            if name not in hub.files:
                more = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
                return self._head(404, more)
            content = hub.files[name]
            digest = hashlib.sha256(content).hexdigest()
            return self._head(
                302,
                {
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-Etag": f'"{digest}"',
                    "X-Linked-Size": str(len(content)),
                    "Location": f"{hub.endpoint.replace('127.0.0.1', 'localhost')}/cdn/{name}",
                },
            )
        code = "RevisionNotFound" if self.path.startswith(f"/{REPO}/") else "RepoNotFound"
        return self._head(404, {"X-Error-Code": code})

    def _bytes(self, body: bool) -> None:
        hub = self.server
        if hub.gone and not hub.cut:
            return self._head(503, {})
        if "Range" in self.headers:
            hub.requests[-1] += f" {self.headers['Range']}"
        content, wanted = hub.files[self.path.removeprefix("/cdn/")], self.headers.get("Range")
        first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        more = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        self._head(206 if wanted else 200, more if wanted else {}, len(content) - first)
        if not body:
            return
        threading.Event().wait(hub.delay)
        if hub.cut:
            self.wfile.write(content[first : first + hub.cut.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(content[first:])

    def _head(self, status: int, headers: dict[str, str], size: int = 0) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(size)}).items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving(home: Path) -> Iterator[Hub]:
    with Hub(home) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
