"""The potential: one encoder shared by all heads, a head and reference energies per dataset."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from hydrapot.potential.backbones.painn import NO_EXCHANGE, DenseMessageSum, Exchange, MessageSums, PaiNN
from hydrapot.potential.conditioning import ChargeSpinConditioning, NoConditioning, check_range
from hydrapot.potential.errors import UnknownElementError, UnknownHeadError, UnsupportedChargeError
from hydrapot.potential.graph import SPIN_ABSENT, Graph
from hydrapot.potential.heads import EnergyHead
from hydrapot.potential.metadata import CheckpointInfo, ModelConfig
from hydrapot.potential.references import ReferenceEnergies
from hydrapot.potential.repulsion import NoRepulsion, ZBLRepulsion


def _module_name(head: str) -> str:
    """ModuleDict keys may not hold dots."""
    return head.replace(".", "·")


class Potential(nn.Module):
    """Structure → per-atom energies, for any of its heads.

    Parameters
    ----------
    info
        Architecture and heads.
    references
        Reference energies of every head in ``info.heads``.
    scales
        eV per unit output, per head; 1 when absent.
    """

    def __init__(
        self,
        info: CheckpointInfo,
        *,
        references: Mapping[str, ReferenceEnergies],
        scales: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if set(references) != set(info.heads):
            raise ValueError(f"references for {sorted(references)} but heads {sorted(info.heads)}")
        config = info.architecture
        self.info = info
        self.references = dict(references)
        encoder = config.encoder
        self.encoder = PaiNN(
            channels=encoder.channels,
            layers=encoder.layers,
            n_radial=encoder.n_radial,
            cutoff=config.cutoff,
            neighbor_scale=encoder.neighbor_scale,
        )
        conditioning = ChargeSpinConditioning if config.charge_spin else NoConditioning
        self.conditioning = conditioning(channels=encoder.channels)
        self.repulsion = ZBLRepulsion(cutoff=config.cutoff) if config.repulsion == "zbl" else NoRepulsion()
        self.energy_heads = nn.ModuleDict(
            {
                _module_name(name): EnergyHead(
                    channels=encoder.channels, hidden=config.head_hidden, scale=(scales or {}).get(name, 1.0)
                )
                for name in info.heads
            }
        )

    @property
    def heads(self) -> list[str]:
        """Names of the heads, equal to the names of their datasets."""
        return list(self.info.heads)

    @property
    def config(self) -> ModelConfig:
        """Architecture."""
        return self.info.architecture

    @property
    def cutoff(self) -> float:
        """Å."""
        return self.info.architecture.cutoff

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the network; geometry and sums are float64 always."""
        return next(self.encoder.parameters()).dtype

    def head(self, name: str) -> EnergyHead:
        """The head `name`.

        Raises
        ------
        UnknownHeadError
        """
        self.check_head(name)
        return cast(EnergyHead, self.energy_heads[_module_name(name)])

    def check_head(self, name: str | None) -> str:
        """`name` if the model has such a head; the only head's name for None.

        Raises
        ------
        UnknownHeadError
            Unknown name, or None although there are several heads: a head is never picked silently.
        """
        if name is None:
            if len(self.heads) == 1:
                return self.heads[0]
            raise UnknownHeadError(
                f"this model has {len(self.heads)} heads, each its own level of theory: name one of {', '.join(self.heads)}"
            )
        if name not in self.info.heads:
            raise UnknownHeadError(f"unknown head {name!r}: this model has {', '.join(self.heads)}")
        return name

    def check_supported(self, graph: Graph, *, head: str) -> None:
        """Raise unless `head` was trained on every element and every (charge, spin) of the graph.

        Raises
        ------
        UnknownHeadError, UnknownElementError, UnsupportedChargeError
        """
        info = self.info.heads[self.check_head(head)]
        kinds = graph.kinds.cpu().numpy()
        for z in np.unique(kinds[:, 0]).tolist():
            if info.structures_per_element.get(chemical_symbols[z], 0) == 0:
                covering = [
                    n for n, h in self.info.heads.items() if h.structures_per_element.get(chemical_symbols[z], 0)
                ]
                hint = f"heads that know it: {', '.join(covering)}" if covering else "no head of this model knows it"
                raise UnknownElementError(f"head {head!r} was not trained on element {chemical_symbols[z]}; {hint}")
        for charge, spin in np.unique(kinds[:, 1:], axis=0).tolist():
            multiplicity = None if spin == SPIN_ABSENT else spin
            if (charge, multiplicity) == (0, None):
                continue
            if (charge, multiplicity) not in info.charge_spin:
                known = sorted({(0, None), *info.charge_spin}, key=str)
                raise UnsupportedChargeError(
                    f"head {head!r} was not trained on charge {charge:+d} with spin multiplicity "
                    f"{multiplicity or 'not stated'}; it knows (charge, spin) {known}"
                )
            check_range(charge, spin)

    def features(
        self, graph: Graph, *, message_sum: MessageSums = DenseMessageSum, exchange: Exchange = NO_EXCHANGE
    ) -> tuple[Tensor, Tensor]:
        """Node features ``(N, F)``, and those of each atom kind without neighbors ``(K, F)``."""
        kinds = self.encoder.embed(graph.kinds, self.conditioning(graph.kinds))
        features: Tensor = self.encoder(kinds, graph, message_sum=message_sum, exchange=exchange)
        return features, self.encoder.without_neighbors(kinds)

    def network_energies(self, graph: Graph, *, head: str, message_sum: MessageSums = DenseMessageSum) -> Tensor:
        """The learned part of the interaction energy per atom, ``(N,)`` eV, float64.

        The default for `message_sum` is differentiable any number of times, also with respect to the weights; that of
        :mod:`~hydrapot.potential.backbones.blocked` is faster.
        """
        features, isolated = self.features(graph, message_sum=message_sum)
        energies: Tensor = self.head(head)(features, isolated, graph)
        return energies

    def interaction_energies(self, graph: Graph, *, head: str) -> Tensor:
        """Energy per atom relative to isolated atoms, ``(N,)`` eV, float64: network plus short-range repulsion."""
        repulsion: Tensor = self.repulsion(graph)
        return self.network_energies(graph, head=head) + repulsion

    def forward(self, graph: Graph, *, head: str) -> Tensor:
        """Same as :meth:`interaction_energies`."""
        return self.interaction_energies(graph, head=head)
