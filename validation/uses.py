"""Uses of a potential and what each of them requires: the one table behind the use matrix.

A use requires suites (of class A, which need no reference, and of class B for the property itself), and a comparison
with reference data in at least one suite that says something about this use.
"""

from dataclasses import dataclass

#: What every use requires: a function of the atoms alone, without steps, that is additive over fragments.
_FUNCTION = ("contract", "symmetry", "cutoff", "size")
#: In addition whatever follows forces.
_FORCES = (*_FUNCTION, "gradient")
#: In addition what goes where training data are thin, and over long times.
_DYNAMICS = (*_FORCES, "jacobian", "walls", "nve", "md")
#: Reference data on forces near and off equilibrium.
_FORCE_DATA = ("held_out", "softening")


@dataclass(frozen=True)
class Use:
    """One row of the matrix.

    Attributes
    ----------
    key, title
        Short name for files, and the row's heading.
    suites
        All of them have to pass.
    accuracy
        Suites that compare with reference data; all such comparisons have to pass.
    compared
        What has to be among those comparisons: one for each group, whose name contains one of the group's words.
    stress
        Whether the use needs the stress: it must have been tested then. Otherwise metrics of it do not count.
    measured
        Suite and metric that must have been measured, where the suite alone would not tell.
    """

    key: str
    title: str
    suites: tuple[str, ...]
    accuracy: tuple[str, ...]
    compared: tuple[tuple[str, ...], ...] = (("",),)
    stress: bool = False
    measured: tuple[tuple[str, str], ...] = ()


_FORCE = ("force",)
_VOLUME = ("Δ", "stress", "volume")

USES = (
    Use("energies", "Single-point energies, screening", _FUNCTION, ("held_out",), (("energy",),)),
    Use("relaxation", "Relaxation of atoms, fixed cell", (*_FORCES, "walls", "relaxation"), _FORCE_DATA, (_FORCE,)),
    Use(
        "cell relaxation",
        "Relaxation with the cell, equation of state",
        (*_FORCES, "walls", "relaxation", "eos"),
        ("eos", "held_out"),
        (_VOLUME,),
        stress=True,
    ),
    Use("elastic", "Elastic constants", (*_FORCES, "relaxation", "elastic"), ("elastic",), stress=True),
    Use("phonons", "Phonons, harmonic thermodynamics", (*_FORCES, "jacobian", "relaxation", "phonons"), ("phonons",)),
    Use("defects", "Vacancies", (*_FORCES, "relaxation", "vacancy"), ("vacancy", *_FORCE_DATA)),
    Use(
        "adsorption",
        "Surfaces and adsorption",
        (*_FORCES, "walls", "relaxation", "surface", "adsorption"),
        ("surface", "adsorption", *_FORCE_DATA),
    ),
    Use("barriers", "Reaction barriers", (*_FORCES, "jacobian", "walls", "relaxation", "barrier"), ("barrier",)),
    Use("nve", "Molecular dynamics, NVE", _DYNAMICS, _FORCE_DATA, (_FORCE,)),
    Use("nvt", "Molecular dynamics, NVT", _DYNAMICS, _FORCE_DATA, (_FORCE,)),
    Use(
        "npt",
        "Molecular dynamics, NPT",
        _DYNAMICS,
        ("eos", *_FORCE_DATA),
        (_FORCE, _VOLUME),
        stress=True,
        measured=(("md", "density after compression"),),
    ),
)
