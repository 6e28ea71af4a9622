"""Time the message sums of PaiNN on a GPU: dense form against fused kernels, forward and backward.

Usage: ``python benchmarks/gpu_edges.py [--dtype float32|float64] [--rounds 20]``

Rattled fcc copper at 5 Å, 128 channels, 20 radial functions, 3 layers, random weights; 864 and 10,976 atoms.

``message sum``
    One sum of a later layer, and its gradients with respect to context, vectors, basis and directions.
``network``
    Energies of the network and their gradient with respect to the edge vectors, as
    :func:`hydrapot.potential.evaluate` takes them.

The two forms take turns; times are medians over the rounds, of CUDA events, after warming up (which compiles the
kernels). `memory` is the peak beyond what was allocated before. `deviation` is the largest difference of the gradients
relative to the largest element, which rounding alone would leave near 1e-6 in float32.

Without a CUDA GPU, or without Triton, the script says so in one line. It has not run on a GPU yet.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from rich.console import Console
from rich.table import Table
from speed_hydrapot import reference_potential
from speed_system import CHANNELS, N_RADIAL, system
from torch import Tensor

from hydrapot.potential import build_graph
from hydrapot.potential.backbones.fused import FusedMessageSum, is_usable
from hydrapot.potential.backbones.painn import DenseMessageSum, MessageSum
from hydrapot.potential.graph import Graph
from hydrapot.potential.model import Potential

N_CELLS = (6, 14)  # 864 and 10,976 atoms
WARM_UP = 3
FORMS: dict[str, type[MessageSum]] = {"dense": DenseMessageSum, "fused": FusedMessageSum}


@dataclass
class Measured:
    """One form of one task: milliseconds of every round, peak bytes, and the gradients."""

    milliseconds: list[float] = field(default_factory=list)
    peak: int = 0
    gradients: Sequence[Tensor] = ()


def message_sum_task(graph: Graph, dtype: torch.dtype) -> Callable[[type[MessageSum]], Sequence[Tensor]]:
    """A later layer's sum with random input."""
    device = graph.edge_vectors.device
    generator = torch.Generator(device=device).manual_seed(0)
    n, e = graph.n_atoms, len(graph.reverse)
    shapes = [(n, 3 * CHANNELS), (n, 3, CHANNELS), (e, N_RADIAL), (e, 3)]
    leaves = [torch.randn(shape, dtype=dtype, device=device, generator=generator).requires_grad_() for shape in shapes]
    filters = torch.randn(3 * CHANNELS, N_RADIAL, dtype=dtype, device=device, generator=generator)
    context, vectors, basis, directions = leaves
    seeds = [torch.ones(n, CHANNELS, dtype=dtype, device=device), torch.ones_like(vectors)]

    def run(form: type[MessageSum]) -> Sequence[Tensor]:
        sums = form(basis, directions, graph)(context, vectors, filters, scale=0.1)
        return torch.autograd.grad(sums, leaves, seeds)

    return run


def network_task(potential: Potential, graph: Graph) -> Callable[[type[MessageSum]], Sequence[Tensor]]:
    """Energies and their gradient."""
    leaf = graph.edge_vectors.detach().requires_grad_()
    leafed = graph.with_edge_vectors(leaf)
    head = potential.heads[0]

    def run(form: type[MessageSum]) -> Sequence[Tensor]:
        energies = potential.network_energies(leafed, head=head, message_sum=form)
        return torch.autograd.grad(energies.sum(), leaf)

    return run


def measure(task: Callable[[type[MessageSum]], Sequence[Tensor]], rounds: int) -> dict[str, Measured]:
    """Both forms in turns."""
    measured = {name: Measured() for name in FORMS}
    for turn in range(WARM_UP + rounds):
        for name, form in FORMS.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            start.record()
            gradients = task(form)
            end.record()
            torch.cuda.synchronize()
            if turn == 0:
                measured[name].gradients = gradients
            if turn >= WARM_UP:
                measured[name].milliseconds.append(start.elapsed_time(end))
                measured[name].peak = torch.cuda.max_memory_allocated() - before
            del gradients
    return measured


def deviation(dense: Sequence[Tensor], fused: Sequence[Tensor]) -> float:
    """Largest difference relative to the largest element, over all gradients."""
    pairs = zip(dense, fused, strict=True)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    if not torch.cuda.is_available():
        print("no CUDA GPU on this machine: nothing to time")
        return
    device = torch.device("cuda")
    if not is_usable(device, dtype):
        print("the fused kernels do not run here: they need a recent Triton and a GPU of compute capability 8.0")
        return
    table = Table(title=f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {arguments.dtype}")
    for column in (
        "task",
        "atoms",
        "form",
        "ms",
        "lowest–highest",
        "µs/atom",
        "times dense",
        "memory MiB",
        "deviation",
    ):
        table.add_column(column, justify="left" if column in {"task", "form"} else "right")
    potential = reference_potential().to(device=device, dtype=dtype)
    for n_cells in N_CELLS:
        graph = build_graph(system("Cu", n_cells), cutoff=potential.cutoff).to(device)
        tasks = {"message sum": message_sum_task(graph, dtype), "network": network_task(potential, graph)}
        for task_name, task in tasks.items():
            measured = measure(task, arguments.rounds)
            reference = statistics.median(measured["dense"].milliseconds)
            for name, result in measured.items():
                median = statistics.median(result.milliseconds)
                table.add_row(
                    task_name,
                    str(graph.n_atoms),
                    name,
                    f"{median:.3f}",
                    f"{min(result.milliseconds):.3f}–{max(result.milliseconds):.3f}",
                    f"{1e3 * median / graph.n_atoms:.3f}",
                    f"{reference / median:.2f}",
                    f"{result.peak / 2**20:.0f}",
                    f"{deviation(measured['dense'].gradients, result.gradients):.1e}",
                )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
