"""The configuration of a run: typed, immutable, overridable as `section.name=value`."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal

from occvae.errors import UserError, suggest
from occvae.models.registry import model_options

if TYPE_CHECKING:
    from pydantic import ValidationError

# Numbers of a `TrainConfig` by their full names.
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
    "seed",
    "profile_steps",
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    root: str = "data/procedural"
    """Folder of the dataset; the embedded default is built when it is absent."""
    num_points: int = 2048
    """Points of a shape in a step."""
    num_near_points: int = 0
    """How many of them lie near the surface, of datasets that have such points."""
    num_views: int = 1
    """Images of a shape in a step."""
    min_views: int | None = None
    """Draws from so many to num_views images, as many for all shapes of a step."""
    augment: bool = False
    """Random backgrounds, colors and noise of the training images."""
    num_workers: int = 4
    """Loader processes of a rank."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    steps: int = 100_000
    batch_size: int = 64
    """Shapes of a rank in a micro step."""
    accumulation_steps: int = 1
    """Micro steps of an optimizer step."""
    lr: float = 1e-4
    """Peak of warm-up and cosine decay."""
    weight_decay: float = 0.05
    """Of matrices; biases and norms have none."""
    warmup_steps: int = 500
    clip_norm: float = 1.0
    """Largest gradient norm; 0 for no clipping."""
    schedule: Literal["cosine", "halved"] = "cosine"
    """After the warm-up: half a cosine to 0, or constant and halved for the last two fifths."""
    dice_weight: float = 0.0
    """Of the soft Dice term beside cross-entropy."""
    kl_weight: float = 1e-3
    """Of the KL term of a variational model, in nats, beside ten times the cross-entropy."""
    kl_warmup_steps: int = 0
    """Steps over which its weight rises from 0."""
    free_nats: float = 0.0
    """Nats of each latent dimension that cost nothing."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    arch: str = "vitocc"
    model: dict[str, Any] = field(default_factory=dict)
    """Options of the architecture, see `occvae.create_model`."""
    initial_weights: str | None = None
    """A run or an export of the same architecture to start from."""
    frozen: tuple[str, ...] = ()
    """Parts of the model that stay as they are, e.g. encoder, decoder, encoder.backbone."""
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """auto: bf16 autocast where the hardware multiplies bf16, otherwise fp32. fp16: on GPUs."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What is shared out among ranks: nothing, optimizer states, gradients too, weights too."""
    sync_batch_norm: bool = True
    """Statistics of all ranks; otherwise each has its own, and those of the first are kept."""
    offload_optimizer: bool = False
    """The optimizer's states in the CPU's memory, and its arithmetic there."""
    activation_checkpointing: bool = False
    """Blocks compute their activations again for the backward pass instead of keeping them."""
    deepspeed_config: dict[str, Any] | str | None = None
    """A JSON file of further settings for DeepSpeed, and later its content."""
    seed: int = 0
    log_every: int = 10
    validate_every: int = 2000
    validate_shapes: int = 256
    """Shapes of the validation split looked at during training."""
    validate_points: int = 16_384
    """Points of each, or as many as there are."""
    save_every: int = 2000
    keep_checkpoints: int = 2
    """The newest ones; the exports best/ and last/ are kept beside them."""
    profile_steps: int = 0
    """Steps of the first rank that go into a trace of torch.profiler in the run folder."""
    wandb_project: str | None = None
    """Weights & Biases project that the metrics also go to."""

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

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def from_dict(content: dict[str, Any]) -> TrainConfig:
    """A config from nested plain values; strings are converted to the declared types.

    Raises:
        UserError: unknown names, or values of the wrong type, each with its full name.
    """
    from pydantic import TypeAdapter, ValidationError

    _refuse_unknown(content, TrainConfig, "")
    content = {**content, "model": _typed_options(content["arch"], content.get("model", {}))}
    try:
        return TypeAdapter(TrainConfig).validate_python(content)
    except ValidationError as error:
        raise _wrong_value(error, prefix="") from None


def apply_overrides(config: TrainConfig, overrides: list[str]) -> TrainConfig:
    """`["optim.lr=3e-4", "model.hidden_size=128"]` over a config.

    Raises:
        UserError: an override is malformed, unknown or of the wrong type.
    """
    content = config.to_dict()
    for override in overrides:
        name, separator, text = override.partition("=")
        if not separator or not name:
            raise UserError(f"override {override!r} is not of the form section.name=value")
        *sections, leaf = name.split(".")
        target = content
        for section in sections:
            target = target.setdefault(section, {}) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            raise UserError(f"override {override!r}: {'.'.join(sections)} is not a section")
        target[leaf] = _parse_value(text)
    return from_dict(content)


def _parse_value(text: str) -> Any:
    """JSON where it is JSON (numbers, true, null, lists), otherwise the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _refuse_unknown(content: dict[str, Any], schema: type, prefix: str) -> None:
    fields = {entry.name: entry for entry in dataclasses.fields(schema)}
    for name, value in content.items():
        if name not in fields:
            raise UserError(f"unknown setting {prefix}{name}; {suggest(name, fields, prefix)}")
        kind = fields[name].type
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise UserError(f"{prefix}{name} is a section; set {prefix}{name}.NAME=value")
            _refuse_unknown(value, kind, f"{prefix}{name}.")


def _typed_options(arch: str, options: dict[str, Any]) -> dict[str, Any]:
    """Model options converted to the types that the architecture declares."""
    from pydantic import TypeAdapter, ValidationError

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
