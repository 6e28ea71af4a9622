"""Physical constants, CODATA 2018, and what follows from them for units: the only place where they are written down.

Since 2019 the elementary charge, Boltzmann's and Avogadro's constants are exact. The units of ASE follow CODATA 2014 by
default and differ by 8e-9; OpenMM's follow CODATA 2018.

Tiesinga, Mohr, Newell & Taylor, Rev. Mod. Phys. 93, 025010 (2021).
"""

#: C; exact.
ELEMENTARY_CHARGE = 1.602176634e-19
#: J/K; exact.
BOLTZMANN = 1.380649e-23
#: 1/mol; exact.
AVOGADRO = 6.02214076e23
#: kg.
ATOMIC_MASS = 1.66053906660e-27

#: eV.
HARTREE = 27.211386245988
#: Å.
BOHR = 0.529177210903

#: e²/(4πε₀) in eV·Å.
COULOMB = 14.399645478425668
#: Boltzmann's constant in eV/K.
KB = BOLTZMANN / ELEMENTARY_CHARGE
#: kJ/mol in 1 eV.
KJ_PER_MOL = ELEMENTARY_CHARGE * AVOGADRO / 1000.0
#: GPa in 1 eV/Å³.
GPA = ELEMENTARY_CHARGE * 1e21
#: bar in 1 eV/Å³.
BAR = GPA * 1e4
