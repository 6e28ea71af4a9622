"""One energy head per first-principles dataset: node features → interaction energy of each atom.

A head reports the difference to its own value for the atom without neighbors, so an isolated atom has its
reference energy, before and after training, and fragments beyond the receptive field are additive. The difference also
makes an output bias meaningless, so there is none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from hydrapot.potential.edges import spread_kinds
from hydrapot.potential.graph import Graph
from hydrapot.potential.initialization import SILU_GAIN, initialize


class EnergyHead(nn.Module):
    """Two-layer perceptron with one output per atom.

    Parameters
    ----------
    channels
        Width of the encoder's node features.
    hidden
        Width of the hidden layer.
    scale
        eV; what the network's unit output means for this dataset. Fixed, not trained. A plain number rather
        than a buffer, so that ``Potential.float()`` leaves it in double precision.
    """

    def __init__(self, *, channels: int, hidden: int, scale: float = 1.0) -> None:
        super().__init__()
        self.hidden = initialize(nn.Linear(channels, hidden))
        self.output = initialize(nn.Linear(hidden, 1, bias=False), gain=0.5 * SILU_GAIN)
        self.scale = float(scale)

    def forward(self, features: Tensor, isolated: Tensor, graph: Graph) -> Tensor:
        """Interaction energy per atom, ``(N,)`` eV, float64.

        Parameters
        ----------
        features
            ``(N, F)`` node features.
        isolated
            ``(K, F)`` node features of each atom kind without neighbors.
        graph
            Gives the kind of each atom.
        """
        atom: Tensor = self.output(silu(self.hidden(features)))
        alone = self.output(silu(self.hidden(isolated)))
        return (atom - spread_kinds(alone, graph))[:, 0].double() * self.scale


def stacked_energies(heads: Sequence[EnergyHead], features: Tensor, isolated: Tensor, graph: Graph) -> Tensor:
    """All heads on all atoms at once, ``(N, H)`` eV in the dtype of the features: what joint training evaluates.

    Two matrix products for the whole list; picking each structure's own head afterwards is cheaper than a gather of
    weights and keeps every shape independent of how a batch is mixed. Heads must share their hidden width.
    """
    weight = torch.cat([h.hidden.weight for h in heads])  # (H·D, F)
    bias = torch.cat([h.hidden.bias for h in heads])
    output = torch.cat([h.output.weight for h in heads])  # (H, D)
    scale = features.new_tensor([h.scale for h in heads])

    def evaluate(x: Tensor) -> Tensor:
        hidden = silu(torch.addmm(bias, x, weight.t())).view(x.shape[0], *output.shape)
        return (hidden * output).sum(dim=2)

    return (evaluate(features) - spread_kinds(evaluate(isolated), graph)) * scale
