"""What others have published about the scaling of such trainings, word for word, with the source.

The sources that could be read are abstracts and announcements. They state how far a training scaled and hold no table of
times, so there are statements here and no curves: a point that cannot be quoted is not drawn.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """A published sentence about scaling.

    Attributes
    ----------
    machine
        Where.
    kind
        "strong", "weak", or "" where the sentence does not say.
    devices
        GPUs (of Frontier: GCDs, 8 a node) that the sentence reaches to; None where it gives no number.
    words
        The sentence, or the part of it that is about this machine.
    source
        Publication.
    """

    machine: str
    kind: str
    devices: int | None
    words: str
    source: str


_PREDICTIVE = (
    "Lupo Pasini et al., Scalable training of trustworthy and energy-efficient predictive graph foundation models for"
    " atomistic materials modeling: a case study with HydraGNN, J. Supercomput. 81, 618 (2025), arXiv:2406.12909, abstract"
)
_MULTI_TASK = (
    "Lupo Pasini et al., Multi-task parallelism for robust pre-training of graph foundation models on multi-source,"
    " multi-fidelity atomistic modeling data, arXiv:2506.21788 (2025), abstract"
)
_EXASCALE = (
    "Lupo Pasini et al., Exascale Multi-Task Graph Foundation Models for Imbalanced, Multi-Fidelity Atomistic Data, arXiv,"
    " April 2026, abstract"
)
_DDSTORE = (
    "Choi et al., DDStore: Distributed Data Store for Scalable Training of Graph Neural Networks on Large Atomistic Modeling"
    " Datasets, SC-W '23, 941-950 (2023), abstract"
)
_EFFICIENT = "demonstrating efficient scaling on all three highly heterogeneous super-computing architectures"
_TO_1000 = "achieves near-linear scaling for training a GNN model using up to 1000 GPUs on the Summit and Perlmutter"

STATEMENTS = (
    Statement(
        "Perlmutter", "strong", 2_000, "near-linear strong scaling performance using more than 2000 GPUs", _PREDICTIVE
    ),
    Statement("Frontier", "strong", 16_000, "near-linear strong scaling performance using … 16,000 GPUs", _PREDICTIVE),
    Statement("Perlmutter, Aurora, Frontier", "", None, _EFFICIENT, _MULTI_TASK),
    Statement("Frontier", "", 16_384, "sustained 2,048-node training", _EXASCALE),
    Statement("Summit, Perlmutter", "", 1_000, _TO_1000, _DDSTORE),
)
#: Said wherever the statements are shown.
NO_NUMBERS = "no published table of times or efficiencies could be read: statements only, and no points to draw"
