"""Initial weights that keep signals at unit scale through the network.

torch's default for a linear layer shrinks the variance of its input threefold, and radial basis functions are far below one:
stacked, they leave messages of a few percent, energies of meV and a network that spends its first epochs growing. Here
every layer preserves variance (Glorot & Bengio, AISTATS 2010; He et al., ICCV 2015), biases start at zero, and filters
are scaled by the basis they act on.
"""

import math

import torch
from torch import nn

#: √(1/E[silu(x)²]) for x ~ N(0, 1).
SILU_GAIN = 1.6765
#: Where filters have unit variance, over the cutoff: 1.5 Å for 5 Å. They grow inwards like 1/r and fade with the envelope
#: outwards; unit variance further out makes the quadratic vector update explode on short bonds.
BONDING_DISTANCE = 0.3


def initialize(layer: nn.Linear, *, gain: float = 1.0) -> nn.Linear:
    """Normal weights of standard deviation gain/√inputs and zero bias; returns the layer.

    Parameters
    ----------
    layer
        Changed in place.
    gain
        :data:`SILU_GAIN` for a layer behind a SiLU, less to start a residual branch small.
    """
    with torch.no_grad():
        layer.weight.normal_(std=gain / math.sqrt(layer.in_features))
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def initialize_filters(layer: nn.Linear, basis: nn.Module, *, cutoff: float) -> nn.Linear:
    """Scale filters so that they are of order one at bonding distance; returns the layer.

    Parameters
    ----------
    layer
        From the radial basis to the filters, without bias; changed in place.
    basis
        ``(E,)`` Å → ``(E, R)``.
    cutoff
        Å; bonding distance is taken to be :data:`BONDING_DISTANCE` of it.
    """
    with torch.no_grad():
        norm = torch.linalg.vector_norm(basis(torch.tensor([BONDING_DISTANCE * cutoff])))
        layer.weight.normal_(std=1.0 / float(norm))
    return layer
