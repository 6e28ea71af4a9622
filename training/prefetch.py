"""Prepare the next items in a thread while the present one is in use."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetched(Generic[T]):
    """Iterator over ``source()``, running `depth` items ahead in a thread; errors surface where the item would.

    Parameters
    ----------
    source
        Makes the iterator, inside the thread.
    depth
        Items kept ready.
    """

    def __init__(self, source: Callable[[], Iterator[T]], *, depth: int) -> None:
        self._queue: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(source,), daemon=True, name="prefetch")
        self._thread.start()

    def _work(self, source: Callable[[], Iterator[T]]) -> None:
        try:
            for item in source():
                if not self._put((item, None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:  # noqa: BLE001 (handed to the consumer, whatever it is)
            self._put((None, error))

    def _put(self, entry: tuple[T | None, BaseException | None]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> "Prefetched[T]":
        return self

    def __next__(self) -> T:
        item, error = self._queue.get()
        if error is not None:
            raise error
        return item  # type: ignore[return-value]

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()
