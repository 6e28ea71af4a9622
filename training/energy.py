"""Energy that a run takes, from the counters that machines have; a machine without readable counters gives none.

======================  ================================================================  =====================
counter                 what it counts                                                    read by
======================  ================================================================  =====================
Cray ``pm_counters``    the whole node, J (Frontier, Perlmutter, other HPE Cray EX)        first process of a node
Linux ``powercap``      processor packages, µJ, wraps around (RAPL of Intel and AMD)      first process of a node
NVML                    one NVIDIA GPU, mJ                                                the process that uses it
``hwmon`` of amdgpu     one AMD GPU, µJ                                                   the process that uses it
======================  ================================================================  =====================

A node's own counter contains its processors and GPUs; where it exists nothing else is added.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

logger = logging.getLogger(__name__)

CRAY = Path("/sys/cray/pm_counters")
POWERCAP = Path("/sys/class/powercap")
PCI = Path("/sys/bus/pci/devices")


class Counter(Protocol):
    """Something that counts energy."""

    name: str

    def read(self) -> float:
        """Joules since an arbitrary moment; never falls."""


class FileCounter:
    """A number in a file of the kernel.

    Parameters
    ----------
    name
        For the record.
    file
        Holds a number and perhaps a unit.
    joules
        Of one count.
    wraps_at
        Count after which it starts again from 0; None for one that does not.
    """

    def __init__(self, name: str, file: Path, *, joules: float, wraps_at: int | None = None) -> None:
        self.name, self.file, self.joules, self.wraps_at = name, file, joules, wraps_at
        self._last, self._turns = self._count(), 0

    def _count(self) -> int:
        return int(self.file.read_text(encoding="ascii").partition(" ")[0])

    def read(self) -> float:
        """As in :class:`Counter`; to be read more often than the counter wraps (for a package, every few minutes)."""
        count = self._count()
        if self.wraps_at is not None and count < self._last:
            self._turns += 1
        self._last = count
        return (count + self._turns * (self.wraps_at or 0)) * self.joules


class NvmlCounter:
    """Total energy of one NVIDIA GPU since its driver was loaded (Volta and later).

    Parameters
    ----------
    uuid
        As torch gives it, without ``GPU-``.

    Raises
    ------
    ImportError
        pynvml is not installed.
    OSError
        The GPU has no such counter.
    """

    def __init__(self, uuid: str) -> None:
        import pynvml

        self._error = pynvml.NVMLError
        self.name = f"GPU-{uuid}"
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(self.name)
            self._read = pynvml.nvmlDeviceGetTotalEnergyConsumption
            self._read(self._handle)
        except self._error as error:
            raise OSError(str(error)) from error

    def read(self) -> float:
        """As in :class:`Counter`."""
        try:
            return float(self._read(self._handle)) * 1e-3
        except self._error as error:
            raise OSError(str(error)) from error


def node_counters(*, cray: Path = CRAY, powercap: Path = POWERCAP) -> list[Counter]:
    """Counters of this node that are readable: its own, or those of its processor packages.

    Parameters
    ----------
    cray, powercap
        Folders of the kernel.
    """
    try:
        return [FileCounter("node", cray / "energy", joules=1.0)]
    except (OSError, ValueError):
        pass
    found: list[Counter] = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        if zone.name.count(":") != 1:  # a part of a package, which its package contains
            continue
        try:
            wraps_at = int((zone / "max_energy_range_uj").read_text(encoding="ascii"))
            name = (zone / "name").read_text(encoding="ascii").strip()
            found.append(FileCounter(name, zone / "energy_uj", joules=1e-6, wraps_at=wraps_at))
        except (OSError, ValueError):  # absent, or readable by root only
            continue
    return found


def gpu_counter(device_index: int, *, pci: Path = PCI) -> Counter | None:
    """Counter of the GPU of this process, or None."""
    import torch

    properties: Any = torch.cuda.get_device_properties(device_index)  # torch's stubs leave out the PCI address
    if torch.version.hip is None:
        try:
            return NvmlCounter(str(properties.uuid))
        except (ImportError, OSError):
            return None
    address = f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
    for file in sorted((pci / address / "hwmon").glob("hwmon*/energy1_input")):
        try:
            return FileCounter(f"GPU {address}", file, joules=1e-6)
        except (OSError, ValueError):
            continue
    return None


class EnergyMeter:
    """Joules since it was made, of the counters that this process reads.

    A counter that stops answering is left out from then on, with a warning: a run does not end for want of a meter.

    Parameters
    ----------
    counters
        May be empty: then nothing is known.
    """

    def __init__(self, counters: Sequence[Counter]) -> None:
        self.counters = list(counters)
        self._last = [c.read() for c in self.counters]
        self._joules = 0.0

    @property
    def names(self) -> list[str]:
        """What is counted."""
        return [c.name for c in self.counters]

    def joules(self) -> float:
        """Since the meter was made; 0 without counters."""
        for k in reversed(range(len(self.counters))):
            try:
                count = self.counters[k].read()
            except (OSError, ValueError) as error:
                logger.warning("energy counter %s has stopped answering: %s", self.counters[k].name, error)
                del self.counters[k], self._last[k]
                continue
            self._joules += count - self._last[k]
            self._last[k] = count
        return self._joules


def counters_of_process(*, local_rank: int, device_type: str, device_index: int | None) -> list[Counter]:
    """Counters that one process of a node reads, so that the sum over all processes counts everything once.

    Parameters
    ----------
    local_rank
        Number of the process on its node.
    device_type, device_index
        What it computes on.
    """
    of_node = node_counters()
    counters = of_node if local_rank == 0 else []
    whole = any(c.name == "node" for c in of_node)
    if device_type == "cuda" and not whole:
        gpu = gpu_counter(device_index or 0)
        counters = [*counters, *([gpu] if gpu is not None else [])]
    return counters
