"""Prepare the next items in threads while the present one is in use.

Threads rather than processes: the search for neighbors, numpy's array functions and the compiled training step all run
outside Python's lock, and what threads make needs no copying (``benchmarks/prefetching.py`` measures both).
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from hydrapot.potential.errors import SimulationError

S = TypeVar("S")
T = TypeVar("T")


class Prefetched(Generic[S, T]):
    """Iterator over ``make(item)`` for the items of ``source()``, in order, running ahead in threads.

    An error of the source or of `make` surfaces where the item would.

    Parameters
    ----------
    source
        Makes the iterator of items, inside a thread of its own.
    make
        Turns an item into what is handed out; called by several threads at once.
    depth
        Items kept ready, or being made.
    workers
        Threads that call `make`.

    Attributes
    ----------
    waited
        Seconds that the consumer has waited in all: the part of its time that data cost it.
    """

    def __init__(
        self, source: Callable[[], Iterator[S]], make: Callable[[S], T], *, depth: int, workers: int = 1
    ) -> None:
        self.waited = 0.0
        # What a worker holds is on its way too: fewer places would leave workers without work.
        self._queue: queue.Queue[Future[T] | None] = queue.Queue(maxsize=max(depth, workers))
        self._stop = threading.Event()
        self._ended: BaseException | None = None
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
        self._thread = threading.Thread(target=self._work, args=(source, make), daemon=True, name="prefetch-source")
        self._thread.start()

    def _work(self, source: Callable[[], Iterator[S]], make: Callable[[S], T]) -> None:
        try:
            for item in source():
                if not self._reserve():
                    return
                self._put(self._pool.submit(make, item))
            self._ended = StopIteration()
        except BaseException as error:  # noqa: BLE001 (handed to the consumer, whatever it is)
            self._ended = error
        self._put(None)

    def _reserve(self) -> bool:
        """Wait until there is a place, before an item is begun; False when the consumer has closed."""
        while not self._stop.is_set():
            if not self._queue.full():
                return True
            self._stop.wait(0.002)
        return False

    def _put(self, entry: Future[T] | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return

    def __iter__(self) -> "Prefetched[S, T]":
        return self

    def __next__(self) -> T:
        began = time.perf_counter()
        try:
            future = self._queue.get() if self._ended is None or not self._queue.empty() else None
            if future is None:
                raise self._ended if self._ended is not None else StopIteration
            return future.result()
        except CancelledError as error:
            raise SimulationError("the preparation of batches was stopped before this one was ready") from error
        finally:
            self.waited += time.perf_counter() - began

    def close(self) -> None:
        """End the threads; what is being made is finished and dropped."""
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._thread.join()
