"""One training step: loss and parameter gradients of a batch, eager or compiled.

A force loss needs the second derivative of the energy, which ``torch.compile`` does not trace by itself. Here the
energy, its gradient with respect to edge vectors, the loss and the gradient of the loss with respect to the parameters
are traced into *one* graph by ``make_fx`` with symbolic shapes, and that graph is compiled. The eager function is the
reference; both give the same numbers.
"""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from hydrapot.potential.backbones.painn import DenseMessageSum, MessageSums
from hydrapot.potential.derivatives import forces_from_edge_gradient, strain_gradient_per_atom
from hydrapot.potential.graph import Graph, build_graph_from_arrays, collate
from hydrapot.potential.heads import stacked_energies
from hydrapot.potential.model import Potential
from hydrapot.training.objective import Losses, ObjectiveConfig, Targets, objective

logger = logging.getLogger(__name__)


class Batch(NamedTuple):
    """Structures of any mix of datasets, with the head of each and its labels."""

    graph: Graph
    head_index: Tensor  # (G,) int64, position in Potential.heads
    targets: Targets

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        targets = Targets(*(t.to(device) for t in self.targets))
        return Batch(self.graph.to(device), self.head_index.to(device), targets)


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

    def __init__(self, potential: Potential, message_sum: MessageSums) -> None:
        super().__init__()
        self.potential, self.message_sum = potential, message_sum

    def forward(self, graph: Graph, head_index: Tensor) -> Tensor:
        features, isolated = self.potential.features(graph, message_sum=self.message_sum)
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

    def __init__(
        self, potential: Potential, *, config: ObjectiveConfig, message_sum: MessageSums = DenseMessageSum
    ) -> None:
        self.potential = potential
        self.module = _JointEnergies(potential, message_sum)
        self.config = config

    def __call__(self, batch: Batch) -> tuple[Losses, list[Tensor]]:
        """Losses, and the gradient of the total for each trainable parameter."""
        losses = self.losses(self.module, batch)
        # Asked for anew: a sharded layout puts whole tensors in the place of its shards for as long as a step takes.
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(losses.total, parameters, materialize_grads=True)
        return Losses(*(t.detach() for t in losses)), list(gradients)

    def losses(self, energies: Callable[[Graph, Tensor], Tensor], batch: Batch) -> Losses:
        """Losses of a batch with energies from `energies`, differentiable with respect to its parameters."""
        predicted = predict(energies, batch.graph, batch.head_index)
        return objective(
            predicted.energy,
            predicted.forces,
            predicted.strain_gradient,
            batch.targets,
            batch.graph.batch,
            config=self.config,
        )


#: Fields of the graph whose first dimension is neither atoms × slots nor derived from it.
_PLAIN = ("numbers", "batch", "cell", "pbc", "charge", "spin", "kinds", "kind_index")


def _pack(batch: Batch) -> list[Tensor]:
    """The batch as tensors whose sizes are N, degree, G and K only, each at least 2, which one traced graph serves.

    Compilers specialize on sizes of one; a structure without atoms and a kind without members keep G and K above it.
    Their weights are zero.
    """
    graph, targets = batch.graph, batch.targets
    plain = [getattr(graph, name) for name in _PLAIN]
    padded = [
        x if name in ("numbers", "batch", "kind_index") else _extend(x) for name, x in zip(_PLAIN, plain, strict=True)
    ]
    rows = (graph.n_atoms, graph.degree)
    edges = [graph.edge_vectors.view(*rows, 3), graph.reverse.view(rows), graph.edge_index[1].view(rows)]
    as_they_are = ("forces", "force_weight", "normalizers")
    labels = [x if n in as_they_are else _extend(x) for n, x in zip(Targets._fields, targets, strict=True)]
    scales = {"energy_scale", "force_scale", "strain_scale", "atoms"}
    for k, name in enumerate(Targets._fields):
        if name in scales:
            labels[k][-1] = 1.0
    return [*padded, *edges, _extend(batch.head_index), *labels]


def _extend(values: Tensor) -> Tensor:
    """One more row, of zeros."""
    return torch.cat([values, values.new_zeros(1, *values.shape[1:])])


def _unpack(tensors: list[Tensor]) -> Batch:
    n = len(_PLAIN)
    edge_vectors, reverse, senders, head_index = tensors[n : n + 4]
    receivers = torch.arange(senders.shape[0], device=senders.device)[:, None].expand(senders.shape)
    vectors = edge_vectors.reshape(-1, 3)
    graph = Graph(
        **dict(zip(_PLAIN, tensors[:n], strict=True)),
        edge_index=torch.stack([receivers.reshape(-1), senders.reshape(-1)]),
        edge_vectors=vectors,
        edge_shifts=torch.zeros_like(vectors),
        edge_mask=torch.ones_like(vectors[:, 0], dtype=torch.bool),
        reverse=reverse.reshape(-1),
        degree=senders.shape[1],
    )
    return Batch(graph, head_index, Targets(*tensors[n + 4 :]))


def _example(potential: Potential) -> list[Tensor]:
    """A packed batch to trace with, of small molecules whose every atom neighbors every other.

    Tracing takes sizes that are equal for the same size, so N, degree, G and K must differ from each other, from every
    dimension of a parameter and from the 3 and 9 of vectors and tensors.
    """
    taken = {1, 2, 3, 9, *(size for p in potential.parameters() for size in p.shape)}

    def sizes(atoms: int, elements: int, molecules: int) -> set[int]:
        return {atoms * molecules, atoms - 1, molecules + 1, elements + 1}

    # Bounded: some choice always exists, since only a few dozen dimensions are taken.
    atoms, elements, molecules = next(
        (a, e, m)
        for a in range(6, 400)
        for e in range(4, a)
        for m in range(4, 60)
        if len(sizes(a, e, m)) == 4 and not sizes(a, e, m) & taken
    )
    rng = np.random.default_rng(0)
    numbers = 1 + np.arange(atoms) % elements
    cutoff, box = potential.cutoff, np.zeros((3, 3))
    graph = collate(
        [
            build_graph_from_arrays(
                numbers, rng.uniform(0.0, 0.5 * cutoff, (atoms, 3)), box, [False] * 3, cutoff=cutoff
            )
            for _ in range(molecules)
        ],
        cutoff=cutoff,
    )
    one = torch.ones(molecules, dtype=torch.float64)
    per_atom = torch.ones(graph.n_atoms, dtype=torch.float64)
    targets = Targets(
        energy=one,
        forces=per_atom[:, None].expand(-1, 3).clone(),
        strain_gradient=one[:, None, None].expand(-1, 3, 3).clone(),
        energy_weight=one,
        force_weight=per_atom,
        strain_weight=one,
        energy_scale=one,
        force_scale=one,
        strain_scale=one,
        atoms=one * atoms,
        normalizers=torch.ones(3, dtype=torch.float64),
        noise=torch.zeros(molecules, 3, dtype=torch.float64),
    )
    device = next(potential.parameters()).device
    return [t.to(device) for t in _pack(Batch(graph, torch.zeros(molecules, dtype=torch.int64), targets))]


def _compile(
    run: Callable[..., list[Tensor]], values: list[Tensor], example: list[Tensor]
) -> Callable[..., list[Tensor]]:
    """Trace with symbolic sizes, compile, and run once on the example, so that its sizes are the hints."""
    traced = make_fx(run, tracing_mode="symbolic", _allow_non_fake_inputs=True)(values, example)
    compiled: Callable[..., list[Tensor]] = torch.compile(traced, dynamic=True)
    with torch.no_grad():
        compiled(values, example)
    return compiled


class CompiledStep:
    """The same as :class:`EagerStep`, traced into one graph on first use and compiled.

    Parameters
    ----------
    potential, config
        As for :class:`EagerStep`.
    """

    def __init__(
        self, potential: Potential, *, config: ObjectiveConfig, message_sum: MessageSums = DenseMessageSum
    ) -> None:
        self.eager = EagerStep(potential, config=config, message_sum=message_sum)
        #: Compilation was tried and failed; every step is eager.
        self.failed = False
        self._compiled: Callable[..., list[Tensor]] | None = None

    def __call__(self, batch: Batch) -> tuple[Losses, list[Tensor]]:
        """Losses, and the gradient of the total for each trainable parameter."""
        module = self.eager.module
        parameters = dict(module.named_parameters())
        # Those that are not trained last.
        parameters = dict(sorted(parameters.items(), key=lambda item: not item[1].requires_grad))
        values = [p.detach() for p in parameters.values()]
        if self._compiled is None and not self.failed:
            try:
                self._compiled = self._trace(parameters)
            except RuntimeError as error:  # no C++ compiler, or one that the generated code does not suit
                self.failed = True
                reason = str(error).strip().splitlines()[0]
                logger.warning("the training step cannot be compiled and runs eagerly, slower: %s", reason)
        if self._compiled is None:
            return self.eager(batch)
        with torch.no_grad():
            out = self._compiled(values, _pack(batch))
        return Losses(*out[:4]), list(out[4:])

    def _trace(self, parameters: Mapping[str, Tensor]) -> Callable[..., list[Tensor]]:
        module, names = self.eager.module, list(parameters)
        trained = sum(p.requires_grad for p in parameters.values())

        def run(values: list[Tensor], packed: list[Tensor]) -> list[Tensor]:
            leaves = [v.detach().requires_grad_() for v in values[:trained]]
            named = dict(zip(names, [*leaves, *(v.detach() for v in values[trained:])], strict=True))

            def energies(graph: Graph, head_index: Tensor) -> Tensor:
                return functional_call(module, named, (graph, head_index))  # type: ignore[no-any-return]

            losses = self.eager.losses(energies, _unpack(packed))
            gradients = torch.autograd.grad(losses.total, leaves, materialize_grads=True)
            return [*(t.detach() for t in losses), *gradients]

        logger.info("tracing and compiling the training step (about a minute)")
        return _compile(run, [p.detach() for p in parameters.values()], _example(self.eager.potential))


class Predictor:
    """Predictions for batches with the present weights, eager or compiled: what validation uses.

    Parameters
    ----------
    potential
        The model.
    compiled
        Trace energies and derivatives into one graph and compile it, on first use.
    """

    def __init__(self, potential: Potential, *, compiled: bool, message_sum: MessageSums = DenseMessageSum) -> None:
        self.potential = potential
        self.module = _JointEnergies(potential, message_sum)
        self.compiled = compiled
        self._compiled: Callable[..., list[Tensor]] | None = None

    def __call__(self, batch: Batch) -> Predictions:
        """Learned part of energies, forces and strain gradients, detached."""
        if not self.compiled:
            return self._eager(batch)
        parameters = dict(self.module.named_parameters())
        values = [p.detach() for p in parameters.values()]
        if self._compiled is None:
            names = list(parameters)

            def run(values: list[Tensor], packed: list[Tensor]) -> list[Tensor]:
                named = dict(zip(names, values, strict=True))
                unpacked = _unpack(packed)

                def energies(graph: Graph, head_index: Tensor) -> Tensor:
                    return functional_call(self.module, named, (graph, head_index))  # type: ignore[no-any-return]

                return [t.detach() for t in predict(energies, unpacked.graph, unpacked.head_index)]

            try:
                self._compiled = _compile(run, values, _example(self.potential))
            except RuntimeError:  # CompiledStep has said why
                self.compiled = False
                return self._eager(batch)
        with torch.no_grad():
            energy, forces, strain = self._compiled(values, _pack(batch))
        return Predictions(energy[: batch.graph.n_graphs], forces, strain[: batch.graph.n_graphs])

    def _eager(self, batch: Batch) -> Predictions:
        return Predictions(*(t.detach() for t in predict(self.module, batch.graph, batch.head_index)))
