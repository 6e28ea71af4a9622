"""What a run computed on, for those who compare its numbers: processor, cores, device and versions, without names of hosts."""

import os
import platform
from pathlib import Path
from typing import Any

import torch


def describe_hardware(device: torch.device) -> dict[str, Any]:
    """Processor, cores that this process may use, device, and the version of torch."""
    return {
        "processor": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
    }


def processor_name(file: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the processor as Linux knows it; the architecture elsewhere."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
