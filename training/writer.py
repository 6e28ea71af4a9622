"""Write training states in a thread, while training goes on with the next steps.

A state is handed over as a copy. At most one is being written; a reader of the file sees the old one or the new one.
"""

import threading
from pathlib import Path

from hydrapot.training.progress import Snapshot
from hydrapot.training.state import save_state


class StateWriter:
    """Writes snapshots to one file; an error of the thread is raised by the next call.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def write(self, snapshot: Snapshot) -> None:
        """Begin to write, once the one before is on the disk.

        Raises
        ------
        CheckpointError
            The one before could not be written.
        """
        self.wait()
        # Not a daemon: an interpreter that ends waits for the file.
        self._thread = threading.Thread(target=self._work, args=(snapshot,), name="state-writer")
        self._thread.start()

    def wait(self) -> None:
        """Until the file is on the disk.

        Raises
        ------
        CheckpointError
            It could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self, snapshot: Snapshot) -> None:
        try:
            save_state(self.path, tensors=snapshot.tensors, document=snapshot.document)
        except BaseException as error:  # noqa: BLE001 (handed to the next caller, whatever it is)
            self._error = error
