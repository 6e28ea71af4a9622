"""What a molecular-dynamics run is asked to do; the description of each field is its documentation."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hydrapot.potential.errors import ConfigurationError
from hydrapot.workflows.guards import CLOSEST_CONTACT

#: What a continued run may change.
FREE_SETTINGS = frozenset({"steps", "checkpoint_interval", "max_temperature", "closest_contact"})


class MDSettings(BaseModel):
    """What to simulate."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    ensemble: Literal["nve", "langevin", "nose-hoover", "npt"] = Field(
        default="langevin",
        description="nve: constant energy; langevin, nose-hoover: constant temperature; npt: and pressure.",
    )
    steps: int = Field(default=1000, ge=0, description="Time steps in all, those before a resume included.")
    timestep: float | None = Field(
        default=None, gt=0, le=20, description="fs; None takes 0.5 with hydrogen and 1 without."
    )
    temperature: float = Field(default=300.0, ge=0, description="K; of a thermostat, or at the start for nve.")
    pressure: float = Field(default=0.0, description="GPa, for npt.")
    cell: Literal["isotropic", "full"] = Field(
        default="isotropic", description="What npt changes: the volume, or all lengths and angles."
    )
    thermostat_time: float = Field(default=100.0, gt=0, description="fs; 1/friction of langevin.")
    barostat_time: float = Field(default=1000.0, gt=0, description="fs.")
    seed: int = Field(default=0, ge=0, description="Of velocities and of langevin.")
    velocities: Literal["new", "file"] = Field(
        default="new", description="Drawn at the temperature, or those of the structure."
    )
    zero_momentum: bool = Field(default=True, description="Start without motion of the center of mass.")
    zero_rotation: bool = Field(default=True, description="Start without rotation, if nothing is periodic.")
    interval: int = Field(default=10, ge=1, description="Steps between frames and rows of the table.")
    checkpoint_interval: int = Field(default=500, ge=1, description="Steps between restart files.")
    max_temperature: float | None = Field(default=None, gt=0, description="K at which the run stops.")
    closest_contact: float = Field(
        default=CLOSEST_CONTACT, ge=0, description="Distance over sum of covalent radii below which it stops."
    )

    @classmethod
    def checked(cls, **values: Any) -> "MDSettings":
        """Settings from keyword arguments, with one-line errors.

        Raises
        ------
        ConfigurationError
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            raise ConfigurationError(f"{name}: {first['msg']} (got {first['input']!r})") from error
