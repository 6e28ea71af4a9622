"""Initial readouts: the last layer of every head fitted to energies, in closed form.

Energies relative to free atoms have a mean of several eV per atom, which a head cannot shift away: it has no bias, because
an isolated atom must keep exactly its reference energy. With random readouts the first thousands of steps would go into
that mean. A ridge regression of the energies on the (random) hidden features of the head starts training where it matters.
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from hydrapot.potential.graph import Graph
from hydrapot.potential.model import Potential
from hydrapot.training.data.compact import assemble
from hydrapot.training.data.prepared import PreparedDataset

#: Structures that a readout is fitted to, evenly spaced in the file.
_STRUCTURES = 128
#: Ridge, relative to the mean square of the hidden features: weights stay of the order that random ones have, also
#: where the energies of a dataset cannot be told from random features.
_RIDGE = 5e-2


@torch.no_grad()
def fit_readout(potential: Potential, dataset: PreparedDataset, *, head: str) -> None:
    """Set the output weights of `head` by regression of the interaction energies per atom.

    Parameters
    ----------
    potential
        Changed in place; the scale of the head must be set already.
    dataset
        Training structures of the head.
    """
    module = potential.head(head)
    chosen = range(0, len(dataset), max(1, len(dataset) // _STRUCTURES))
    rows, values = [], []
    for i in chosen:
        graph = assemble([s := dataset.frames.structure(i)], [dataset.lists.get(i, s)], cutoff=potential.cutoff)
        rows.append(_mean_hidden(potential, graph, head=head))
        values.append(dataset.energy[i] / graph.n_atoms / module.scale)
    x, y = torch.stack(rows).double(), torch.tensor(values, dtype=torch.float64)
    known = torch.isfinite(y)
    if not bool(known.any()):
        return
    x, y = x[known], y[known]
    gram = x.T @ x
    ridge = _RIDGE * gram.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    identity = torch.eye(len(gram), dtype=torch.float64)
    module.output.weight.copy_(torch.linalg.solve(gram + ridge * identity, x.T @ y)[None])


def _mean_hidden(potential: Potential, graph: Graph, *, head: str) -> Tensor:
    """Hidden features of a head less those of isolated atoms, averaged over a structure's atoms, ``(D,)``."""
    module = potential.head(head)
    features, isolated = potential.features(graph)
    hidden = silu(module.hidden(features)) - silu(module.hidden(isolated))[graph.kind_index]
    mean: Tensor = hidden.mean(dim=0)
    return mean
