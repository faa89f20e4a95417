"""The configuration of a run: typed, immutable, overridable as `section.name=value`.

The string after each field says what the setting means, then its type, unit and default value.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from occvae.errors import UserError, suggest

if TYPE_CHECKING:
    from pydantic import ValidationError

# Settings that must be positive, and settings that must not be negative.
_POSITIVE = (
    "data.num_points",
    "data.num_views",
    "optim.steps",
    "optim.batch_size",
    "optim.accumulation_steps",
    "optim.lr",
    "log_every",
    "validate_every",
    "validate_shapes",
    "validate_points",
    "save_every",
    "keep_checkpoints",
)
_NOT_NEGATIVE = (
    "data.num_near_points",
    "data.num_workers",
    "optim.weight_decay",
    "optim.warmup_steps",
    "optim.clip_norm",
    "optim.dice_weight",
    "optim.kl_weight",
    "optim.kl_warmup_steps",
    "optim.free_nats",
    "stop_after",
    "seed",
    "profile_steps",
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The `data` section of a `TrainConfig`: which samples a step reads."""

    root: str = "data/procedural"
    """Dataset folder. The embedded dataset is built there if the default folder is absent. Type
    str, a path, default data/procedural."""
    num_points: int = 2048
    """Query points per shape in a micro step, including the points near the surface. Voxel models
    ignore it. Type int, unit points, default 2048."""
    num_near_points: int = 0
    """How many of the query points lie near the surface. The dataset must store that many. Type
    int, unit points, default 0."""
    num_views: int = 1
    """Images per shape in a micro step, chosen at random from the stored views. Type int, unit
    views, default 1."""
    min_views: int | None = None
    """Smallest number of images per shape. If set, each micro step draws a number from min_views to
    num_views, the same for all its shapes. Type int or null, unit views, default null (always
    num_views)."""
    augment: bool = False
    """Whether training images get a random position, perspective, color, background, blur and
    noise, to be as varied as photographs. Type bool, no unit, default false."""
    num_workers: int = 4
    """Processes per rank that read samples ahead. 0 reads them in the training process. Type int,
    unit processes, default 4."""
    on_device: bool = False
    """Whether each rank holds all training samples in the memory of its device and makes batches
    there, with views, points and augmentation drawn per batch. num_workers then has no effect.
    Works for models of images if the training split fits. Type bool, no unit, default false."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The `optim` section of a `TrainConfig`: optimizer, schedule and loss."""

    steps: int = 100_000
    """Length of the run. Type int, unit optimizer steps, default 100000."""
    batch_size: int = 64
    """Shapes per rank in a micro step. Type int, unit shapes, default 64."""
    accumulation_steps: int = 1
    """Micro steps whose gradients are averaged in an optimizer step. Type int, unit micro steps,
    default 1."""
    lr: float = 1e-4
    """Peak learning rate of AdamW, reached after the warm-up. Type float, no unit, default
    0.0001."""
    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW. Only parameters with two or more dimensions decay, so biases
    and norm scales do not. Type float, no unit, default 0.05."""
    warmup_steps: int = 500
    """Steps over which the learning rate rises linearly to its peak. Type int, unit optimizer
    steps, default 500."""
    clip_norm: float = 1.0
    """Gradients with a larger L2 norm are scaled down to it. 0 disables clipping. Type float, no
    unit, default 1.0."""
    schedule: Literal["cosine", "halved"] = "cosine"
    """Learning rate after the warm-up. cosine: half a cosine down to 0. halved: constant for the
    first three fifths of the run, then half of it. Type str, one of cosine and halved, no unit,
    default cosine."""
    dice_weight: float = 0.0
    """Weight of the soft Dice term, which is added to the cross-entropy. Type float, no unit,
    default 0.0."""
    kl_weight: float = 1e-3
    """Weight of the KL term of a variational model. The KL is in nats and the reconstruction term
    is ten times the mean cross-entropy. Type float, unit 1/nat, default 0.001."""
    kl_warmup_steps: int = 0
    """Steps over which the weight of the KL term rises linearly from 0 to kl_weight. Type int, unit
    optimizer steps, default 0."""
    free_nats: float = 0.0
    """KL per latent dimension below which the KL term has no gradient. Type float, unit nats,
    default 0.0."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of a run."""

    arch: str = "vitocc"
    """Name of the architecture, see `occvae.list_models`. Type str, no unit, default vitocc."""
    model: dict[str, Any] = field(default_factory=dict)
    """Options of the architecture, see `occvae.create_model`. Set them as model.NAME=value. Type
    section, no unit, default empty."""
    initial_weights: str | None = None
    """Run folder or export of the same architecture whose weights the run starts from. Type str or
    null, a path, default null (random or pretrained weights)."""
    frozen: tuple[str, ...] = ()
    """Names of submodules that are not trained, e.g. `["encoder","decoder"]`. Their batch norm
    statistics do not change either. Type list of str, no unit, default []."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which samples a step reads. Type section, no unit, default as in `DataConfig`."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer, schedule and loss. Type section, no unit, default as in `OptimConfig`."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """Data type of autocast. auto chooses bf16 if the hardware has bf16 arithmetic, otherwise fp32.
    fp16 needs a GPU. Weights and checkpoints stay fp32. Type str, one of auto, fp32, fp16 and bf16,
    no unit, default auto."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What ZeRO partitions among the ranks. 0: nothing. 1: optimizer states. 2: also gradients. 3:
    also weights. Type int from 0 to 3, no unit, default 1."""
    sync_batch_norm: bool = True
    """Whether batch norm uses statistics of all ranks. If false, each rank uses its own, and
    checkpoints hold those of rank 0. Type bool, no unit, default true."""
    offload_optimizer: bool = False
    """Whether optimizer states are kept in CPU memory and updated there. Needs zero_stage 1, 2 or
    3. Type bool, no unit, default false."""
    activation_checkpointing: bool = False
    """Whether blocks recompute their activations in the backward pass instead of keeping them. Type
    bool, no unit, default false."""
    compile: bool = False
    """Whether torch.compile compiles the forward and backward passes. The first steps take minutes,
    so it is for long runs on a GPU. It cannot be combined with activation_checkpointing or
    zero_stage 3. Type bool, no unit, default false."""
    deepspeed_config: dict[str, Any] | str | None = None
    """JSON file with further settings of DeepSpeed. The run stores its content. Type str or null, a
    path, default null."""
    seed: int = 0
    """Seed of initial weights, sample order, views, points and augmentation. Type int, no unit,
    default 0."""
    log_every: int = 10
    """Interval between logged metrics. Type int, unit optimizer steps, default 10."""
    validate_every: int = 2000
    """Interval between validations. The last step is always validated. Type int, unit optimizer
    steps, default 2000."""
    validate_shapes: int = 256
    """Largest number of shapes per validation, spread evenly over the val split. Type int, unit
    shapes, default 256."""
    validate_points: int = 16_384
    """Largest number of query points per validation shape. Voxel models ignore it. Type int, unit
    points, default 16384."""
    stop_after: int = 0
    """Ends the run early, after this many validations in a row without a new best IoU. 0 never ends
    it early. With optim.schedule=cosine, the last steps have the smallest learning rates and often
    improve the IoU once more, and a run that ends early does not reach them. Type int, unit
    validations, default 0."""
    save_every: int = 2000
    """Interval between checkpoints. The last step is always saved. Type int, unit optimizer steps,
    default 2000."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep. The exports best/ and last/ are kept too. Type int,
    unit checkpoints, default 2."""
    profile_steps: int = 0
    """Steps of rank 0 to record with torch.profiler, from the fifth step of the process on. 0
    records nothing. Type int, unit optimizer steps, default 0."""
    wandb_project: str | None = None
    """Weights & Biases project that the metrics are also sent to. Type str or null, no unit,
    default null."""

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not 0 < attrgetter(name)(self) < math.inf:
                raise UserError(f"{name} must be positive, got {attrgetter(name)(self)}")
        for name in _NOT_NEGATIVE:
            if not 0 <= attrgetter(name)(self) < math.inf:
                raise UserError(f"{name} must not be negative, got {attrgetter(name)(self)}")
        if self.data.min_views is not None and not 1 <= self.data.min_views <= self.data.num_views:
            raise UserError(
                f"data.min_views must be from 1 to data.num_views={self.data.num_views}, "
                f"got {self.data.min_views}"
            )
        if self.offload_optimizer and self.zero_stage == 0:
            raise UserError("offload_optimizer needs zero_stage=1, 2 or 3, got 0")
        if self.compile and (self.activation_checkpointing or self.zero_stage == 3):
            raise UserError(
                "compile=true cannot be combined with activation_checkpointing=true or zero_stage=3"
            )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def from_dict(content: dict[str, Any]) -> TrainConfig:
    """Creates a config from nested plain values. Strings are converted to the declared types.

    Raises:
        UserError: a name is unknown, or a value has the wrong type. The message lists each such
            setting by its full name.
    """
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(content["arch"], str):
        raise UserError(f"arch = {content['arch']!r}: expected the name of an architecture")
    _refuse_unknown(content, TrainConfig, "")
    content = {**content, "model": _typed_options(content["arch"], content.get("model", {}))}
    try:
        return TypeAdapter(TrainConfig).validate_python(content)
    except ValidationError as error:
        raise _wrong_value(error, prefix="") from None


def apply_overrides(config: TrainConfig, overrides: list[str]) -> TrainConfig:
    """Returns a config with some settings replaced.

    Args:
        config: config to start from.
        overrides: settings such as "optim.lr=3e-4" or "model.hidden_size=128". Values are JSON, or
            text if they are not JSON.

    Raises:
        UserError: an override is malformed, its name is unknown, or its value has the wrong type.
    """
    content = config.to_dict()
    for override in overrides:
        name, text = split_override(override)
        *sections, leaf = name.split(".")
        target = content
        for section in sections:
            target = target.setdefault(section, {}) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            raise UserError(f"override {override!r}: {'.'.join(sections)} is not a section")
        target[leaf] = _parse_value(text)
    return from_dict(content)


def split_override(override: str) -> tuple[str, str]:
    """Returns the name and the value of an override such as "optim.lr=3e-4".

    Raises:
        UserError: it has no name or no "=".
    """
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise UserError(f"override {override!r} is not of the form section.name=value")
    return name, text


def _parse_value(text: str) -> Any:
    """Parses JSON (numbers, true, null, lists). Returns other text as it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _refuse_unknown(content: dict[str, Any], schema: type, prefix: str) -> None:
    fields = {entry.name: entry for entry in dataclasses.fields(schema)}
    for name, value in content.items():
        if name not in fields:
            same = _settings_called(name, content.get("arch"))
            hint = f"did you mean {' or '.join(same)}?" if same else suggest(name, fields, prefix)
            raise UserError(f"unknown setting {prefix}{name}; {hint}")
        kind = fields[name].type
        section = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        if (section or name == "model") and not isinstance(value, dict):
            raise UserError(f"{prefix}{name} is a section; set {prefix}{name}.NAME=value")
        if isinstance(kind, type) and section:
            _refuse_unknown(value, kind, f"{prefix}{name}.")


def _settings_called(name: str, arch: str | None) -> list[str]:
    """Returns the full names of the settings whose last part is `name`."""
    from occvae.models.registry import model_options

    sections = {"": TrainConfig, "data.": DataConfig, "optim.": OptimConfig}
    known = [
        f"{p}{entry.name}" for p, kind in sections.items() for entry in dataclasses.fields(kind)
    ]
    known += [f"model.{option}" for option in (model_options(arch) if arch else ())]
    return [setting for setting in known if setting.rpartition(".")[2] == name]


def _typed_options(arch: str, options: dict[str, Any]) -> dict[str, Any]:
    """Converts model options to the types that the architecture declares."""
    from pydantic import TypeAdapter, ValidationError

    from occvae.models.registry import model_options

    known = model_options(arch)
    typed = {}
    for name, value in options.items():
        if name not in known:
            hint = suggest(name, known, "model.")
            raise UserError(f"unknown setting model.{name} for {arch}; {hint}")
        try:
            typed[name] = TypeAdapter(known[name].annotation).validate_python(value)
        except ValidationError as error:
            raise _wrong_value(error, prefix=f"model.{name}") from None
    return typed


def _wrong_value(error: "ValidationError", prefix: str) -> UserError:
    details = []
    for entry in error.errors():
        name = ".".join([prefix] * bool(prefix) + [str(part) for part in entry["loc"]])
        reason = entry["msg"].removeprefix("Value error, ")
        details.append(
            reason if not name else f"{name} = {entry['input']!r}: {reason[0].lower()}{reason[1:]}"
        )
    return UserError("; ".join(details))
