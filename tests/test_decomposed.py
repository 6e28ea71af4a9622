"""A divided structure has the energies, forces and virial of the whole, however it is divided."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrapot.potential.decomposed import evaluate_domain, make_domain
from hydrapot.potential.errors import ConfigurationError, InvalidStructureError, UnknownElementError, UnknownHeadError
from hydrapot.potential.evaluate import evaluate
from hydrapot.potential.graph import build_graph
from tests.contract_helpers import random_potential
from tests.decomposition_helpers import divide, run_parts

POTENTIAL = random_potential(layers=3, channels=8, cutoff=4.0, heads=("a", "b"))


def rattled(atoms: Atoms, seed: int = 1) -> Atoms:
    atoms.rattle(0.1, seed=seed)
    return atoms


STRUCTURES = {
    "crystal": rattled(bulk("NaCl", "rocksalt", a=5.6, cubic=True)),
    "four atoms": rattled(bulk("Cu", a=3.6, cubic=True)),
    "one atom": bulk("Cu", a=3.6),
    "triclinic": rattled(
        Atoms("CuOHC", [[0, 0, 0], [2, 0, 0], [0, 2, 1], [2, 2, 2]], cell=[[4, 0, 0], [2, 4, 0], [1, -1, 4]], pbc=True)
    ),
    "slab": rattled(fcc111("Cu", (2, 2, 3), a=3.6, vacuum=6.0)),
    "molecule": molecule("CH3CH2OH"),
    "far apart": Atoms("HO", [[0, 0, 0], [50, 0, 0]]),
}


def check(
    atoms: Atoms,
    owners,
    parts: int,
    *,
    seed: int = 0,
    heads=None,
    dtype=torch.float64,
    gathered=False,
    charge=0,
    spin=None,
):
    heads = heads or {"a": 1.0}
    potential = POTENTIAL if dtype == torch.float64 else random_potential(layers=3, channels=8, cutoff=4.0).to(dtype)
    divided = divide(atoms, owners, parts, cutoff=4.3, rng=np.random.default_rng(seed))

    def work(part, halo):
        return evaluate_domain(
            potential,
            heads=heads,
            numbers=part.numbers(atoms),
            pair_i=part.pair_i,
            pair_j=part.pair_j,
            r_ij=part.r_ij,
            n_local=part.n_local,
            halo=halo,
            charge=charge,
            spin=spin,
            gathered=gathered,
        )

    energies, forces = np.zeros(len(atoms)), np.zeros((len(atoms), 3))
    virial, virials = np.zeros((3, 3)), np.zeros((len(atoms), 3, 3))
    for part, (result, calls) in zip(divided, run_parts(divided, len(atoms), work), strict=True):
        # Between layers forth and back; that processes without atoms do the same is asserted by run_parts.
        assert calls == (["to ghosts"] * 5 if gathered else ["to ghosts"] * 2 + ["to owners"] * 2)
        energies[part.atoms] = result.energies.numpy()
        np.add.at(forces, np.concatenate([part.atoms, part.ghosts]), result.forces.numpy())
        virials[part.atoms] = result.virials.numpy()
        np.testing.assert_allclose(
            result.virials.sum(0), -torch.einsum("ea,eb->ab", result.pair_gradient, part.r_ij), atol=1e-10
        )
        virial += result.virials.sum(0).numpy()
    graph = build_graph(atoms, cutoff=potential.cutoff)
    whole = {head: evaluate(potential, graph, head=head) for head in heads}

    def expected(field: str) -> np.ndarray:
        return sum(weight * getattr(whole[head], field).numpy() for head, weight in heads.items())

    per_atom = sum(
        weight * (whole[h].energies - torch.from_numpy(potential.references[h].values)[graph.numbers]).numpy()
        for h, weight in heads.items()
    )
    loose = 1.0 if dtype == torch.float64 else 3e5
    np.testing.assert_allclose(energies.sum(), expected("interaction_energy")[0], rtol=0, atol=loose * 1e-10)
    np.testing.assert_allclose(energies, per_atom, rtol=0, atol=loose * 1e-9)  # references of 29,000 eV are subtracted
    np.testing.assert_allclose(forces, expected("forces"), rtol=0, atol=loose * 1e-9)
    if not gathered:  # which gives the share of a pair to the atom on the other side
        np.testing.assert_allclose(virials, expected("virials"), rtol=0, atol=loose * 1e-9)
    np.testing.assert_allclose(virial, expected("virial")[0], rtol=loose * 1e-8, atol=loose * 1e-9)
    return energies


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("parts", [1, 2, 4])
@pytest.mark.parametrize("gathered", [False, True])
def test_any_structure_on_any_number_of_processes(name, parts, gathered):
    atoms = STRUCTURES[name]
    energies = check(atoms, np.arange(len(atoms)) % parts, parts, gathered=gathered)
    assert name == "far apart" or abs(energies.sum()) > 1e-2


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    name=st.sampled_from(sorted(STRUCTURES)),
    parts=st.integers(1, 4),
    seed=st.integers(0, 99),
    gathered=st.booleans(),
)
def test_any_division_also_into_empty_parts(data, name, parts, seed, gathered):
    n_atoms = len(STRUCTURES[name])
    owners = data.draw(st.lists(st.integers(0, parts - 1), min_size=n_atoms, max_size=n_atoms))
    check(STRUCTURES[name], owners, parts, seed=seed, gathered=gathered)


@pytest.mark.parametrize("gathered", [False, True])
def test_blended_heads_and_charge(gathered):
    check(STRUCTURES["crystal"], [0, 1] * 4, 2, heads={"a": 0.7, "b": -0.2}, gathered=gathered)
    atoms = STRUCTURES["molecule"].copy()
    atoms.info.update(charge=-1, spin=2)
    check(atoms, [k % 2 for k in range(len(atoms))], 2, charge=-1, spin=2, gathered=gathered)


@pytest.mark.parametrize("gathered", [False, True])
def test_single_precision_agrees_to_its_digits(gathered):
    check(STRUCTURES["crystal"], [0, 0, 0, 1, 1, 1, 0, 1], 2, dtype=torch.float32, gathered=gathered)


def test_without_exchange_the_result_would_be_wrong():
    """What the check protects from: ghosts whose features stay those of the first layer."""
    atoms = STRUCTURES["four atoms"]
    (part,) = divide(atoms, [0] * 4, 1, cutoff=4.0, rng=np.random.default_rng(0))

    class NoHalo:
        def to_ghosts(self, rows):
            return torch.cat([rows, rows.new_zeros(len(part.ghosts), rows.shape[1])])

        def to_owners(self, rows):
            return rows[: part.n_local]

    pairs = {"pair_i": part.pair_i, "pair_j": part.pair_j, "r_ij": part.r_ij, "numbers": part.numbers(atoms)}
    wrong = evaluate_domain(POTENTIAL, heads={"a": 1.0}, n_local=4, halo=NoHalo(), **pairs)
    right = evaluate(POTENTIAL, build_graph(atoms, cutoff=4.0), head="a")
    assert abs(float(wrong.energies.sum()) - float(right.interaction_energy[0])) > 1e-3


def test_refuses_what_it_has_no_answer_for():
    pairs = {"pair_i": torch.tensor([0, 1]), "pair_j": torch.tensor([1, 0])}
    r_ij = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]], dtype=torch.float64)

    def run(heads=None, numbers=(29, 29), r_ij=r_ij):
        evaluate_domain(
            POTENTIAL,
            heads=heads if heads is not None else {"a": 1.0},
            numbers=torch.tensor(numbers),
            r_ij=r_ij,
            n_local=2,
            halo=None,
            **pairs,
        )

    with pytest.raises(UnknownHeadError, match="unknown head 'c'"):
        run(heads={"c": 1.0})
    with pytest.raises(ConfigurationError, match="name a head: a, b"):
        run(heads={})
    with pytest.raises(UnknownElementError, match="Xe"):
        run(numbers=(29, 54))
    with pytest.raises(InvalidStructureError, match="at one place"):
        run(r_ij=1e-5 * r_ij)
    with pytest.raises(ValueError, match="only 1 atoms are local"):
        make_domain(numbers=torch.tensor([29, 29]), r_ij=r_ij, n_local=1, cutoff=4.0, halo=None, **pairs)
