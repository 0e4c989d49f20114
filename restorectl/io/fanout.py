"""Several images written side by side from one stream of planes, so that none is held in memory."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Full, Queue
from typing import Any

from restorectl.core.axes import Header
from restorectl.io.image import Array, create_image

_PATIENCE = 0.05  # seconds between looks at whether a writer has failed


def create_images(
    paths: Sequence[Path],
    headers: Sequence[Header],
    planes: Iterator[tuple[Array, ...]],
    provenance: Mapping[str, Any],
) -> None:
    """Write image k from the k-th array of every tuple; see `create_image` for each.

    A failed writer stops the stream, and its error is raised.
    """
    if len(paths) == 1:
        create_image(paths[0], headers[0], (each[0] for each in planes), provenance=provenance)
        return
    queues: list[Queue[Array | None]] = [Queue(1) for _ in paths]
    with ThreadPoolExecutor(len(paths)) as pool:
        writers = [
            pool.submit(create_image, path, header, _until_none(queue), provenance=provenance)
            for path, header, queue in zip(paths, headers, queues, strict=True)
        ]
        try:
            for each in planes:
                for queue, writer, plane in zip(queues, writers, each, strict=True):
                    _hand_over(queue, writer, plane)
        finally:  # a writer that gets too few planes ends with an error of its own
            for queue, writer in zip(queues, writers, strict=True):
                _hand_over(queue, writer, None)
        for writer in writers:
            writer.result()


def _until_none(queue: Queue[Array | None]) -> Iterator[Array]:
    while (plane := queue.get()) is not None:
        yield plane


def _hand_over(queue: Queue[Array | None], writer: Future[None], plane: Array | None) -> None:
    """Wait for room; a writer that has failed takes nothing more, and its error is raised."""
    while not writer.done():
        try:
            queue.put(plane, timeout=_PATIENCE)
            return
        except Full:
            continue
    if plane is not None:
        writer.result()
