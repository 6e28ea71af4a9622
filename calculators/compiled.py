"""The network as one compiled function, shared by all calculators of a process.

Compiling takes most of a minute, so it must not happen again for a second calculator, another head or another
set of weights. The weights are therefore arguments of the compiled function, and functions are kept by
architecture, precision and device. Only the energy is compiled; its derivative is taken outside, where every
engine takes it.
"""

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hydrapot.potential.evaluate import NetworkEnergies
from hydrapot.potential.graph import Graph
from hydrapot.potential.heads import EnergyHead
from hydrapot.potential.model import Potential

logger = logging.getLogger(__name__)

#: Systems with fewer atoms, or fewer neighbors each, are evaluated eagerly: for a single atom the code that torch 2.13
#: generates for the CPU is wrong by 0.1 eV without a word (sizes of 1 are specialized), and there is nothing to gain.
SMALLEST = 2

_Weights = dict[str, Tensor]
_functions: dict[tuple[str, torch.dtype, str], Callable[[_Weights, Graph], Tensor]] = {}


class _Network(nn.Module):
    """Encoder and one head of unit scale as a module whose weights are replaced in every call."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        config = potential.config
        self.potential = potential
        self.head = EnergyHead(channels=config.encoder.channels, hidden=config.head_hidden, scale=1.0)

    def forward(self, graph: Graph) -> Tensor:
        features, isolated = self.potential.features(graph)
        return self.head(features, isolated, graph)  # type: ignore[no-any-return]


def _weights(potential: Potential, head: str) -> _Weights:
    parts = {
        "potential.encoder": potential.encoder,
        "potential.conditioning": potential.conditioning,
        "head": potential.head(head),
    }
    return {
        f"{prefix}.{name}": tensor
        for prefix, part in parts.items()
        for name, tensor in (*part.named_parameters(), *part.named_buffers())
    }


def compiled_network(potential: Potential, *, head: str) -> NetworkEnergies:
    """A compiled replacement of ``potential.network_energies(graph, head=head)``, for any number of atoms and
    edges.

    The first call compiles (about a minute on a CPU); later ones, also for other heads and other weights of
    the same architecture, do not.
    """
    device = str(next(potential.encoder.parameters()).device)
    key = (potential.config.model_dump_json(), potential.dtype, device)
    if key not in _functions:
        logger.info("the network will be compiled at the first step (about a minute)")
        template = _Network(potential)

        def run(weights: _Weights, graph: Graph) -> Tensor:
            # tie_weights would look for the template's other heads, which are not used here.
            return functional_call(template, weights, (graph,), tie_weights=False)  # type: ignore[no-any-return]

        _functions[key] = torch.compile(run, dynamic=True)
    function = _functions[key]
    weights = _weights(potential, head)
    scale = potential.head(head).scale

    def network(graph: Graph) -> Tensor:
        if min(graph.n_atoms, graph.degree) < SMALLEST:
            return potential.network_energies(graph, head=head)
        return function(weights, graph) * scale

    return network
