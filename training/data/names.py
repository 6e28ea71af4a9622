"""Names of datasets, which become names of heads."""

import re
from pathlib import Path


def dataset_name(path: str | Path) -> str:
    """Name of the dataset in a file or store: the file name without ``.extxyz.xz``, ``.store`` and the like.

    Endings are known in capitals too.
    """
    return re.sub(r"(\.(ext)?xyz)?(\.(xz|gz|bz2))?$|\.store$", "", Path(path).name, flags=re.IGNORECASE)
