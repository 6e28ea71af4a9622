"""What engines ask of a head before they simulate."""

import numpy as np
import pytest

from hydrapot.calculators.support import check_composition
from hydrapot.potential import UnknownElementError, UnsupportedChargeError
from tests.engine_helpers import MOLECULES, small_potential


def test_elements_charge_and_periodicity_are_checked_without_a_geometry():
    potential = small_potential()
    everywhere, nowhere, slab = np.full(3, True), np.full(3, False), np.array([True, True, False])  # noqa: FBT003
    hydrogen, xenon = [1] * 5, [1, 54]
    check_composition(potential, hydrogen, head=MOLECULES, pbc=everywhere)
    check_composition(potential, hydrogen, head=MOLECULES, pbc=nowhere, charge=1, spin=2)
    for pbc in (everywhere, slab):
        with pytest.raises(UnsupportedChargeError, match="in a periodic cell has no defined energy"):
            check_composition(potential, hydrogen, head=MOLECULES, pbc=pbc, charge=1, spin=2)
    with pytest.raises(UnsupportedChargeError, match=r"charge \+2"):
        check_composition(potential, hydrogen, head=MOLECULES, pbc=nowhere, charge=2)
    with pytest.raises(UnknownElementError, match="Xe"):
        check_composition(potential, xenon, head=MOLECULES, pbc=nowhere)
