"""One thread for the linear algebra of optimizers and integrators."""

from contextlib import AbstractContextManager
from typing import cast

from threadpoolctl import threadpool_limits


def single_threaded_algebra() -> AbstractContextManager[object]:
    """A block in which the BLAS of numpy and scipy uses one thread; torch's threads are not touched.

    Optimizers and integrators factorize 3 × 3 and 6 × 6 matrices. OpenBLAS wakes all cores for some of these, which on
    a busy machine made relaxing a cell 18 times slower; and one thread gives the same bits everywhere.
    """
    return cast(AbstractContextManager[object], threadpool_limits(limits=1, user_api="blas"))
