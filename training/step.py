"""One training step: loss and parameter gradients of a batch, eager or compiled.

A force loss needs the second derivative of the energy, which ``torch.compile`` does not trace by itself. Here the energy,
its gradient with respect to edge vectors, the loss and the gradient of the loss with respect to the parameters are traced into *one*
graph by ``make_fx`` with symbolic shapes, and that graph is compiled. The eager function is the reference; both give the
same numbers.
"""

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from hydrapot.potential.derivatives import forces_from_edge_gradient, strain_gradient_per_atom
from hydrapot.potential.graph import Graph
from hydrapot.potential.heads import stacked_energies
from hydrapot.potential.model import Potential
from hydrapot.training.objective import Losses, ObjectiveConfig, Targets, objective

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Structures of any mix of datasets, with the head of each and its labels."""

    graph: Graph
    head_index: Tensor  # (G,) int64, position in Potential.heads
    targets: Targets


class Predictions(NamedTuple):
    """What the network predicts for a batch: learned part of the interaction energy, and derivatives."""

    energy: Tensor  # (G,) eV
    forces: Tensor  # (N, 3) eV/Å
    strain_gradient: Tensor  # (G, 3, 3) eV


def _sum_structures(values: Tensor, graph: Graph) -> Tensor:
    """Sum over the atoms of each structure, ``(N, …)`` → ``(G, …)``, by a product with the membership matrix.

    A compiled scatter adds with atomics, in an order that differs from run to run; a resumed training must not.
    """
    members = torch.arange(graph.n_graphs, device=values.device)[:, None] == graph.batch[None, :]
    return members.to(values.dtype) @ values


class _JointEnergies(torch.nn.Module):
    """Energies per structure, each from its own head: the function that is differentiated and traced."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, graph: Graph, head_index: Tensor) -> Tensor:
        features, isolated = self.potential.features(graph)
        heads = [self.potential.head(name) for name in self.potential.heads]
        energies = stacked_energies(heads, features, isolated, graph)
        own = torch.arange(len(heads), device=energies.device)[None, :] == head_index[graph.batch][:, None]
        return _sum_structures((energies * own).sum(dim=1).double(), graph)


def predict(energies: Callable[[Graph, Tensor], Tensor], graph: Graph, head_index: Tensor) -> Predictions:
    """Energies, forces and strain gradients, differentiable again with respect to the parameters."""
    leaf = graph.edge_vectors.detach().requires_grad_()
    graph = graph.with_edge_vectors(leaf)
    energy = energies(graph, head_index)
    (gradient,) = torch.autograd.grad(energy.sum(), leaf, create_graph=True)
    strain = _sum_structures(strain_gradient_per_atom(gradient, graph).double().view(-1, 9), graph).view(-1, 3, 3)
    return Predictions(energy, forces_from_edge_gradient(gradient, graph), 0.5 * (strain + strain.transpose(1, 2)))


Step = Callable[[Batch], tuple[Losses, list[Tensor]]]


class EagerStep:
    """Loss and gradients by plain autograd: the reference.

    Parameters
    ----------
    potential
        The model that is trained; gradients come in the order of ``parameters()``.
    config
        Weights of the objective.
    """

    def __init__(self, potential: Potential, *, config: ObjectiveConfig) -> None:
        self.module = _JointEnergies(potential)
        self.config = config
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]

    def __call__(self, batch: Batch) -> tuple[Losses, list[Tensor]]:
        """Losses, and the gradient of the total for each trainable parameter."""
        losses = self._losses(self.module, batch)
        gradients = torch.autograd.grad(losses.total, self.parameters, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, self.parameters, strict=True)]
        return Losses(*(t.detach() for t in losses)), filled

    def _losses(self, energies: Callable[[Graph, Tensor], Tensor], batch: Batch) -> Losses:
        predicted = predict(energies, batch.graph, batch.head_index)
        return objective(
            predicted.energy,
            predicted.forces,
            predicted.strain_gradient,
            batch.targets,
            batch.graph.batch,
            config=self.config,
        )


_TENSORS = [f.name for f in fields(Graph) if f.name not in ("degree", "edge_index")]


def _pack(batch: Batch) -> list[Tensor]:
    """Tensors only; senders as (N, degree), from which the traced function reads the degree as a symbol."""
    graph = batch.graph
    dtype_cast = [getattr(graph, name) for name in _TENSORS]
    return [*dtype_cast, graph.edge_index[1].view(graph.n_atoms, graph.degree), batch.head_index, *batch.targets]


def _unpack(tensors: list[Tensor]) -> Batch:
    values = dict(zip(_TENSORS, tensors, strict=False))
    senders, head_index = tensors[len(_TENSORS)], tensors[len(_TENSORS) + 1]
    receivers = torch.arange(senders.shape[0], device=senders.device)[:, None].expand(senders.shape)
    edge_index = torch.stack([receivers.reshape(-1), senders.reshape(-1)])
    graph = Graph(**values, edge_index=edge_index, degree=senders.shape[1])
    return Batch(graph, head_index, Targets(*tensors[len(_TENSORS) + 2 :]))


class CompiledStep:
    """The same as :class:`EagerStep`, traced into one graph on first use and compiled.

    Parameters
    ----------
    potential, config
        As for :class:`EagerStep`.
    """

    def __init__(self, potential: Potential, *, config: ObjectiveConfig) -> None:
        self.eager = EagerStep(potential, config=config)
        self._compiled: Callable[..., list[Tensor]] | None = None

    def __call__(self, batch: Batch) -> tuple[Losses, list[Tensor]]:
        """Losses, and the gradient of the total for each trainable parameter."""
        module = self.eager.module
        parameters = dict(module.named_parameters())
        tensors = _pack(batch)
        if self._compiled is None:
            self._compiled = self._trace(parameters, tensors)
        values = [p.detach() for p in parameters.values()]
        with torch.no_grad():
            out = self._compiled(values, tensors)
        return Losses(*out[:4]), list(out[4:])

    def _trace(self, parameters: dict[str, Tensor], tensors: list[Tensor]) -> Callable[..., list[Tensor]]:
        module, names = self.eager.module, list(parameters)

        def run(values: list[Tensor], packed: list[Tensor]) -> list[Tensor]:
            leaves = [v.detach().requires_grad_() for v in values]
            named = dict(zip(names, leaves, strict=True))

            def energies(graph: Graph, head_index: Tensor) -> Tensor:
                return functional_call(module, named, (graph, head_index))  # type: ignore[no-any-return]

            losses = self.eager._losses(energies, _unpack(packed))
            gradients = torch.autograd.grad(losses.total, leaves, allow_unused=True)
            filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, leaves, strict=True)]
            return [*(t.detach() for t in losses), *filled]

        logger.info("tracing and compiling the training step (about a minute)")
        traced = make_fx(run, tracing_mode="symbolic", _allow_non_fake_inputs=True)([p.detach() for p in parameters.values()], tensors)
        return torch.compile(traced, dynamic=True)  # type: ignore[no-any-return]
