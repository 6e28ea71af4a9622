"""What a checkpoint says about itself: architecture and, for each head, data, level of theory and validity."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LevelOfTheory(_Document):
    """How the labels of a dataset were computed."""

    functional: str = Field(description="Exchange-correlation functional or wavefunction method, e.g. PBE, wB97X, MP2.")
    code: str = Field(default="not stated", description="First-principles program.")
    hubbard_u: str = Field(default="none", description='Hubbard +U corrections in the labels: "none" or which.')
    dispersion: str = Field(default="none", description='Dispersion in the labels: "none", "D3(BJ)", …')
    basis: str = Field(default="not stated", description="Basis set or plane-wave cutoff and pseudopotentials.")
    energy_kind: str = Field(default="total", description='"total", "free (e_fr_energy)", "relative to free atoms", …')
    note: str = Field(default="", description="Anything a user of the energies must know.")

    def __str__(self) -> str:
        parts = [self.functional]
        if self.hubbard_u != "none":
            parts.append(f"+U ({self.hubbard_u})")
        if self.dispersion != "none":
            parts.append(f"+{self.dispersion}")
        if self.basis != "not stated":
            parts.append(f"/ {self.basis}")
        return f"{' '.join(parts)} ({self.code})"


class HeadInfo(_Document):
    """What a head was trained on and may be used for."""

    dataset: str
    level_of_theory: LevelOfTheory
    references: Literal["isolated", "zero", "fit"] = Field(description="Where the reference energies come from.")
    licence: str = ""
    attribution: str = ""
    structures: int = Field(default=0, description="Training structures.")
    structures_per_element: dict[str, int] = Field(
        default_factory=dict,
        description="Training structures that contain the element; absent means unknown, and raises.",
    )
    periodicity: list[str] = Field(default_factory=list, description='Periodic directions seen, e.g. ["TTT", "FFF"].')
    pressure_range: tuple[float, float] | None = Field(default=None, description="GPa, of the training stresses.")
    stress_trained: bool = False
    charge_spin: list[tuple[int, int | None]] = Field(
        default_factory=list,
        description="(charge, multiplicity or null) values trained on; (0, null) is always accepted.",
    )
    split: Literal["group", "interpolation"] = Field(
        default="group", description='How validation was separated; "interpolation" means one trajectory or ensemble.'
    )
    metrics: dict[str, float] = Field(default_factory=dict, description="Validation errors; units in the names.")


class PaiNNConfig(_Document):
    """Encoder: PaiNN (arXiv:2102.03150)."""

    name: Literal["painn"] = "painn"
    channels: int = Field(default=64, ge=1, description="Width of scalar and vector features.")
    layers: int = Field(default=3, ge=1, description="Message-passing layers.")
    n_radial: int = Field(default=16, ge=1, description="Radial basis functions.")
    neighbor_scale: float = Field(
        default=30.0, gt=0, description="Typical number of neighbors; messages are divided by its root."
    )


class ModelConfig(_Document):
    """Architecture of a potential: enough to build it with random weights."""

    encoder: PaiNNConfig = Field(default_factory=PaiNNConfig)
    cutoff: float = Field(default=5.0, gt=0, description="Å.")
    head_hidden: int = Field(default=32, ge=1, description="Hidden width of every energy head.")
    charge_spin: bool = Field(default=True, description="Condition on total charge and spin multiplicity.")
    repulsion: Literal["zbl", "none"] = Field(default="zbl", description="Short-range pair repulsion.")


class CheckpointInfo(_Document):
    """The JSON document in a checkpoint's header, apart from the reference energies."""

    architecture: ModelConfig
    heads: dict[str, HeadInfo]
    provenance: dict[str, Any] = Field(default_factory=dict, description="Who trained it how, on what, when.")
    content_hash: str = Field(default="", description="SHA-256 of tensors and document; empty for a model never saved.")
