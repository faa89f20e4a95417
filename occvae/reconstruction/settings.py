"""What is asked of a reconstruction, and whether the model and the format can give it."""

from dataclasses import dataclass

from occvae.errors import UserError
from occvae.geometry.mesh_processing import LEAST_FACES, import_simplify
from occvae.images.background import import_rembg
from occvae.images.preprocess import BACKGROUNDS
from occvae.models.inference import check_threshold
from occvae.models.protocol import ImplicitModel, Model, VariationalModel, VoxelModel
from occvae.ops.validation import suitable_coarse_resolution
from occvae.visualize.turntable import KINDS

# (least, most) of each whole number; what is beyond takes forever or means nothing.
_RANGES = {
    "resolution": (1, 1 << 24),
    "refine_vertices": (0, 64),
    "num_samples": (1, 1000),
    "seed": (0, (1 << 63) - 1),
    "smooth": (0, 1000),
    "decimate": (LEAST_FACES, 1 << 31),
    "batch_size": (1, 1024),
}


@dataclass(frozen=True)
class ReconstructionSettings:
    """How images become meshes; UserError where a value makes no sense."""

    resolution: int = 128  # cells along each axis
    threshold: float | None = None  # probability of the surface; None takes the model's own
    refine_vertices: int = 0  # see occvae.extract_mesh
    normals: bool = False  # likewise
    blocks: bool = False  # a cube for each voxel, of models that make voxels
    num_samples: int | None = None  # hypotheses of a variational model; None for its mean
    uncertainty: bool = False  # colors that say how much the hypotheses differ
    seed: int = 0  # of hypotheses
    largest: bool = False  # see occvae.geometry.mesh_processing, these three
    smooth: int = 0
    decimate: int | None = None
    background: str = "auto"  # see occvae.images.preprocess
    turntable: str | None = None  # gif or png
    batch_size: int = 8  # objects that the model gets together

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UserError(f"{name} must be from {least} to {most}; got {value}")
        if self.threshold is not None:
            check_threshold(self.threshold)
        for name, value, choices in (
            ("background", self.background, BACKGROUNDS),
            ("turntable", self.turntable, (None, *KINDS)),
        ):
            if value not in choices:
                offered = ", ".join(filter(None, choices))
                raise UserError(f"unknown {name} {value!r}; choose from {offered}")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.normals and (self.smooth or self.decimate is not None):
            raise UserError(
                "normals are those of the surface as it was extracted: leave them out with smooth "
                "and decimate, which change it"
            )
        if self.blocks and (self.normals or self.refine_vertices):
            raise UserError("blocks have no field for normals or vertex refinement")

    def check(self, model: Model, format: str) -> None:
        """UserError unless the model, the format and the installed libraries can give it."""
        if self.background == "rembg":
            import_rembg()
        if self.decimate is not None:
            import_simplify()
        if self.blocks and not isinstance(model, VoxelModel):
            raise UserError(f"{model.arch} makes no voxels, so it has no blocks")
        if self.num_samples is not None and not isinstance(model, VariationalModel):
            raise UserError(
                f"{model.arch} has one answer for an image: hypotheses (num_samples) need a "
                "variational model such as pix2vox-vae"
            )
        if self.uncertainty and not isinstance(model, VariationalModel):
            raise UserError(
                f"{model.arch} does not know how sure it is: uncertainty needs a variational "
                "model such as pix2vox-vae"
            )
        try:
            if isinstance(model, ImplicitModel):
                suitable_coarse_resolution(self.resolution)
        except ValueError as error:
            raise UserError(str(error)) from None
        if self.uncertainty and format not in ("glb", "ply"):
            raise UserError(f".{format} files keep no colors of vertices: choose glb or ply")
        if self.normals and format not in ("glb", "ply", "obj"):
            raise UserError(f".{format} files keep no normals of vertices: choose glb, ply or obj")
