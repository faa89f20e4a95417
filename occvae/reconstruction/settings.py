"""Settings of a reconstruction, and checks that the model and the format support them."""

from dataclasses import dataclass

from occvae.errors import UserError
from occvae.geometry.mesh_processing import LEAST_FACES, import_simplify
from occvae.images.background import import_rembg
from occvae.images.preprocess import BACKGROUNDS
from occvae.models.inference import check_threshold
from occvae.models.protocol import HypothesisModel, ImplicitModel, Model, VoxelModel
from occvae.observations.kinds import Images, Mixture, PointCloud, VoxelGrid
from occvae.ops.validation import suitable_coarse_resolution
from occvae.visualize.turntable import KINDS

# Smallest and largest value of each integer setting. Others make no sense or never finish.
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
    """Settings of `reconstruct_files` and `predict_meshes`.

    Raises:
        UserError: A value is out of range, or two settings exclude each other.
    """

    resolution: int = 128
    """Cells along each axis of the padded cube."""
    threshold: float | None = None
    """Probability at the surface; None selects the model's own."""
    refine_vertices: int = 0
    """Steps of vertex refinement, see `occvae.extract_mesh`."""
    normals: bool = False
    """Whether to compute vertex normals from the field, see `occvae.extract_mesh`."""
    blocks: bool = False
    """Whether to make one cube per occupied voxel; voxel models only."""
    num_samples: int | None = None
    """Number of hypotheses, variational models only; None for the mesh of the posterior's mean."""
    uncertainty: bool = False
    """Whether to color vertices by the standard deviation over hypotheses."""
    seed: int = 0
    """Seed of the hypotheses, and of the choice of points of a scan."""
    largest: bool = False
    """Whether to keep the largest component only, see `occvae.geometry.mesh_processing`."""
    smooth: int = 0
    """Rounds of smoothing, see `occvae.geometry.mesh_processing`."""
    decimate: int | None = None
    """Number of faces to keep, see `occvae.geometry.mesh_processing`."""
    background: str = "auto"
    """How to cut out the object, see `occvae.images.preprocess.prepare_image`."""
    strict: bool = False
    """Whether an object fails if a background is not removed, instead of a warning."""
    box: tuple[float, ...] | None = None
    """Box of the object in a scan: its lower corner x, y, z, then its upper one, in the scan's
    coordinates. None for the bounding box of the points."""
    turntable: str | None = None
    """`gif` or `png` for a turntable beside each mesh."""
    batch_size: int = 8
    """Number of objects to reconstruct together."""

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
                "normals cannot be combined with smooth or decimate, which change the surface that "
                "the normals belong to; leave out normals, or both smooth and decimate"
            )
        if self.blocks and (self.normals or self.refine_vertices):
            raise UserError(
                "blocks cannot be combined with normals or refine_vertices; leave out blocks, or "
                "both normals and refine_vertices"
            )

    def check_files(self, model: Model) -> None:
        """Raises a UserError unless files hold what the model observes, and the settings suit it.

        Args:
            model: The model to reconstruct with.
        """
        observation = model.observation
        if isinstance(observation, Mixture):
            return
        if not isinstance(observation, Images | PointCloud | VoxelGrid):
            raise UserError(
                f"{model.arch} observes {observation.noun}s, which are not read from files here; "
                "call model.reconstruct in Python"
            )
        if self.box is not None and not isinstance(observation, PointCloud):
            raise UserError(
                f"box applies to point clouds, but {model.arch} observes {observation.noun}s"
            )
        if not isinstance(observation, Images) and (self.background != "auto" or self.strict):
            raise UserError(
                f"background and strict apply to images, but {model.arch} observes "
                f"{observation.noun}s"
            )

    def check(self, model: Model, format: str) -> None:
        """Raises a UserError unless the model, the format and the installed libraries suffice.

        Args:
            model: The model to reconstruct with.
            format: Format of the meshes, one of `occvae.reconstruction.FORMATS`.
        """
        if self.background == "rembg":
            import_rembg()
        if self.decimate is not None:
            import_simplify()
        if self.blocks and not isinstance(model, VoxelModel):
            raise UserError(f"{model.arch} does not predict voxels: blocks need a voxel model")
        if self.num_samples is not None and not isinstance(model, HypothesisModel):
            raise UserError(
                f"{model.arch} has one prediction per image: hypotheses (num_samples) need a "
                "variational model such as occvae or pix2vox-vae"
            )
        if self.uncertainty and not isinstance(model, HypothesisModel):
            raise UserError(
                f"{model.arch} has one prediction per image: uncertainty needs a variational "
                "model such as occvae or pix2vox-vae"
            )
        try:
            if isinstance(model, ImplicitModel):
                suitable_coarse_resolution(self.resolution)
        except ValueError as error:
            raise UserError(str(error)) from None
        if self.uncertainty and format not in ("glb", "ply", "obj"):
            raise UserError(f".{format} files have no vertex colors: choose glb, ply or obj")
        if self.normals and format not in ("glb", "ply", "obj"):
            raise UserError(f".{format} files have no vertex normals: choose glb, ply or obj")
