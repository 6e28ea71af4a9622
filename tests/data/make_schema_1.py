"""How ``schema-1.safetensors`` was made, for the record: a released schema's file is never written again."""

from pathlib import Path

from ase.build import molecule

from hydrapot.potential import build_graph, evaluate, save
from tests.potential_helpers import MOLECULES, tiny_potential

if __name__ == "__main__":
    potential = tiny_potential()
    path = Path(__file__).with_name("schema-1.safetensors")
    save(potential, path)
    graph = build_graph(molecule("CH3OH"), cutoff=potential.cutoff)
    energy = evaluate(potential.double(), graph, head=MOLECULES).energy.item()
    path.with_suffix(".txt").write_text(f"{energy!r}\n", encoding="utf-8")
