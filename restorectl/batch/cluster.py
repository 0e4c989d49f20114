"""Hands files, or regions of one image, to the workers of a dask cluster, beside threads.

A run is planned here, once. A worker makes the same `Work` from the job, and refuses if its
version, device, precision or weights are others. What a worker that is lost had in hand is done
again by another one. The workers read inputs and write outputs themselves: the scheduler sees
neither.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any
from uuid import uuid4

from restorectl import __version__
from restorectl.batch.plan import Work
from restorectl.engine.runner import ACCOUNT, Account, Stopped, counting, one_thread
from restorectl.errors import ClusterError, UsageError, one_line
from restorectl.files import provenance

AHEAD = 2  # tasks given to each thread of the workers, so that none waits for the next
PATIENCE = 30  # seconds to wait for a scheduler's answer
RECENT = 5  # seconds for which the number of workers is believed
POLL = 0.5  # seconds after which a run that was given up is noticed


@dataclass(frozen=True)
class Made:
    """How a worker makes the `Work` of a run."""

    work: Callable[[Any], Work]  # of a module, so that its name can be sent
    job: Any  # one of `jobs`


@dataclass(frozen=True)
class Orders:
    """What comes with every task: how to work, and what must be the same on all machines."""

    run: str  # of one run; a worker makes its `Work` once for each
    made: Made
    folder: str  # to which relative paths of the job belong
    record: Mapping[str, Any]  # provenance of an output, without an input


class Cluster:
    """The workers of a scheduler, as something that tasks are submitted to."""

    def __init__(self, address: str, client: Any, orders: Orders) -> None:
        self.address, self.orders = address, orders
        self._client = client
        self._pool: Executor = client.get_executor(pure=False)
        self._threads, self._asked = 1, float("-inf")  # how many there were, and when
        self.done = SimpleQueue[Future[Any]]()  # tasks that have ended

    @property
    def workers(self) -> int:
        """How many there are now."""
        return len(self._client.nthreads())

    @property
    def threads(self) -> int:
        """Of all workers that there were a moment ago; at least 1, since more may come."""
        if time.monotonic() - self._asked > RECENT:
            try:
                self._threads = max(1, int(sum(self._client.nthreads().values())))
            except OSError as error:
                raise self._gone() from error
            self._asked = time.monotonic()
        return self._threads

    def _gone(self) -> ClusterError:
        return ClusterError(
            f"`dask` {self.address}: the scheduler is gone: start it and run the same command again"
            " to go on"
        )

    def submit(self, function: Callable[..., Any], *details: Any) -> Future[Any]:
        """Have `function(work, *details)` called by a worker; both are of a module, or plain."""
        future: Future[Any] = self._pool.submit(perform, self.orders, function, *details)
        future.add_done_callback(self.done.put)
        return future

    def first(self, patience: float | None = None) -> Future[Any] | None:
        """The next one of `done`; None if there is none for so many seconds.

        Raises ClusterError if nobody can do its task.
        """
        try:
            future = self.done.get(timeout=patience)
        except Empty:
            return None
        if future.cancelled():
            raise self._gone()
        if type(future.exception()).__name__ == "KilledWorker":
            raise ClusterError(
                f"`dask` {self.address}: several workers died one after the other at the same task:"
                " give each more memory or fewer threads"
            )
        return future

    def each(self, function: Callable[..., Any], items: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """`function(work, *item)` of all items, as they come.

        Raises what it raises, as `first` does, and Stopped if the file is given up. No more are
        waiting than the workers need, so that the scheduler holds few.
        """
        account, flight, rest = ACCOUNT.get(), set[Future[Any]](), iter(items)
        try:
            while True:
                for item in islice(rest, max(0, AHEAD * self.threads - len(flight))):
                    flight.add(self.submit(counted, function, *item))
                if not flight:
                    return
                future = self.first(POLL)
                if account is not None and account.stopped:
                    raise Stopped
                if future in flight:
                    flight.remove(future)
                    found, *calls = future.result()
                    if account is not None:
                        account.add(*calls)
                    yield found
        finally:
            for future in flight:
                future.cancel()
            self.done = SimpleQueue()  # what was cancelled is not waited for


@contextmanager
def connected(address: str, made: Made, record: Mapping[str, Any]) -> Iterator[Cluster]:
    """The workers at a scheduler's address, or `local:N` new ones on this machine.

    record: the provenance of an output, without an input. Raises UsageError, ClusterError.
    """
    try:
        distributed: Any = import_module("distributed")
    except ImportError as error:
        raise UsageError(
            f"`dask` {address}: needs the library distributed: python -m pip install"
            ' "restorectl[cluster]"'
        ) from error
    kind, _, count = address.partition(":")
    with ExitStack() as stack:
        place: Any = address
        if kind == "local":
            if not count.isdecimal() or int(count) < 1:
                raise UsageError(
                    f"`dask` {address}: use local:N with N of at least 1, or an address"
                )
            # a busy machine takes long to start a worker again
            patient = {"distributed.deploy.lost-worker-timeout": "1h"}
            stack.enter_context(import_module("dask").config.set(patient))
            place = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=int(count),
                    threads_per_worker=1,
                    memory_limit=None,
                    dashboard_address=":0",
                    silence_logs=50,
                )
            )
        try:
            client = distributed.Client(place, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"`dask` {address}: no scheduler answers there ({one_line(error)}): check the"
                " address, or use local:N"
            ) from error
        stack.callback(client.close, timeout=PATIENCE)
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it is told by us
        try:
            for worker, found in client.run(installed).items():
                require_same(worker, found, record)
        except (ImportError, AttributeError) as error:  # raised where `installed` is looked up
            raise ClusterError(
                f"`dask` {address}: a worker has no restorectl {__version__} ({one_line(error)}):"
                " install the same version on all machines"
            ) from error
        yield Cluster(address, client, Orders(uuid4().hex, made, str(Path.cwd()), record))


# ---- on a worker ---------------------------------------------------------------------------------
def installed() -> dict[str, Any]:
    """Of restorectl, what decides on pixels."""
    return {"version": __version__, "revision": provenance.REVISION}


_works: dict[str, Work] = {}  # that of the last run
_lock = Lock()


def perform(orders: Orders, function: Callable[..., Any], *details: Any) -> Any:
    """Do one task of a run. Raises ClusterError if this worker would make other pixels."""
    one_thread()
    with _lock:
        if orders.run not in _works:
            _works.clear()
            _works[orders.run] = _made(orders)
        work = _works[orders.run]
    return function(work, *details)


def counted(work: Work, function: Callable[..., Any], *details: Any) -> tuple[Any, int, int, int]:
    """What `function(work, *details)` gives, and the network calls, as `Account.add` takes them."""
    shown: list[tuple[int, int]] = []
    account = Account(lambda *each: shown.append(each))
    with counting(account):
        found = function(work, *details)
    return found, account.calls, sum(n for n, _ in shown), sum(n for _, n in shown)


def _made(orders: Orders) -> Work:
    from distributed import get_worker

    worker = get_worker()
    require_same(worker.address, installed(), orders.record)
    try:
        os.chdir(orders.folder)
    except OSError as error:
        raise ClusterError(
            f"worker {worker.address}: has no folder {orders.folder}: all machines need the same"
            " folders"
        ) from error
    job = orders.made.job
    compute = replace(job.compute, threads=worker.state.nthreads)
    work = orders.made.work(replace(job, compute=compute))
    require_same(worker.address, work.origin.record(""), orders.record)
    return work


def require_same(address: str, here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Raises ClusterError if a worker's provenance differs from that of the run."""
    mine, wanted = ({**each, **each.get("parameters", {})} for each in (here, there))
    for name in mine:
        if name != "parameters" and mine[name] != wanted.get(name):
            raise ClusterError(
                f"worker {address}: has {name} {_short(mine[name])}, this run"
                f" {_short(wanted.get(name))}: all machines need the same restorectl, weights,"
                " device and precision"
            )


def _short(value: Any) -> str:
    """A value in a message; weights by the beginning of their hash."""
    if isinstance(value, Mapping) and "sha256" in value:
        return f"{value['name']} ({value['sha256'][:12]})"
    return str(value)
