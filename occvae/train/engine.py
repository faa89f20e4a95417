"""A model under DeepSpeed: mixed precision, ZeRO, gradient accumulation and clipping.

The optimizer is torch's AdamW, so that DeepSpeed compiles nothing at run time.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from occvae.models.batch_norm import synchronize_batch_norm
from occvae.models.protocol import Model
from occvae.train import zero_state
from occvae.train.activation_checkpointing import checkpoint_activations
from occvae.train.config import TrainConfig
from occvae.train.deepspeed_config import make_deepspeed_config
from occvae.train.parallel import world_size
from occvae.train.precision import GradScalerState, autocast_dtype


class Engine:
    """Trains one model on this rank.

    Args:
        model: model with the initial weights, which are the same on every rank.
        config: settings of the run.
        schedule: maps a step to a factor of the learning rate.
        device: device of this rank.
        step: number of optimizer steps that the weights have had.
        moments: optimizer moments after that step, from `moments()`. Only rank 0 needs them.
        state: other state after that step, from `state()`, on every rank.

    Attributes:
        skipped: whether the last step left the weights unchanged because a gradient was not finite.
        gradients_failed: whether gradients were not finite although the loss scale of fp16 was 1 or
            absent.
    """

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        schedule: Callable[[int], float],
        device: torch.device,
        step: int = 0,
        moments: dict[str, torch.Tensor] | None = None,
        state: dict[str, Any] | None = None,
    ):
        import deepspeed

        self.device = device
        self.dtype = autocast_dtype(config.precision, device.type)
        shares = world_size() > 1 or config.offload_optimizer
        self._stage = config.zero_stage if shares else 0
        self._clip_norm = config.optim.clip_norm
        self.skipped = self.gradients_failed = False
        # Under ZeRO-3 a rank holds only a part of the weights. Full weights go into copies of this.
        self._empty_model = zero_state.empty_copy(model) if self._stage == 3 else None
        if world_size() > 1 and config.sync_batch_norm:
            synchronize_batch_norm(model)
        if config.activation_checkpointing:
            checkpoint_activations(model)
        if device.type == "cuda" and self._stage == 0:
            use_channels_last(model)  # ZeRO flattens weights, which loses the layout
        if device.type == "cpu" and self.dtype is not None:
            # The backward pass of flash attention is slow in bf16 on a CPU. Despite its name, the
            # switch also applies to CPUs.
            torch.backends.cuda.enable_flash_sdp(False)
        if config.compile:
            model.compile()  # after the replacement of batch norms
        optimizer = _create_optimizer(model.to(device), config)
        self._scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule, step - 1)
        self._engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=make_deepspeed_config(config, self._stage, self.dtype),
        )
        self._restore(step, moments, state or {"updates": step, "loss_scale": []})

    def _restore(
        self, step: int, moments: dict[str, torch.Tensor] | None, state: dict[str, Any]
    ) -> None:
        """Restores the optimizer state, see the arguments of the constructor."""
        self._updates = state["updates"]
        self._scale = None
        if self.dtype == torch.float16:
            self._scale = self._own_loss_scale(GradScalerState(*state["loss_scale"]))
        zero_state.create_moments(self._engine, self._updates)
        if step:
            zero_state.set_moments(self._engine, moments or {})

    def _own_loss_scale(self, scale: GradScalerState) -> GradScalerState:
        """Replaces DeepSpeed's loss scaler for autocast.

        DeepSpeed's scaler clips gradients before it unscales them. Under ZeRO it also lets each
        rank decide separately whether its part of the gradients has overflowed.
        """
        self._engine.torch_autocast_z0_gradscaler = None
        self._engine.optimizer.torch_autocast_gradscaler = None
        if self._stage:
            self._engine.optimizer.override_loss_scale(scale.value)
        return scale

    def train_step(self, loss: torch.Tensor) -> None:
        """Runs `backward` and `step` for one micro step."""
        self.backward(loss)
        self.step()

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of a micro step, reduced over ranks before an optimizer step."""
        if self._scale is not None and self._stage == 0:
            loss = loss * self._scale.value
        self._engine.backward(loss)

    def step(self) -> None:
        """Updates the weights once enough micro steps have been accumulated. Follows `backward`.

        If a gradient is not finite, the weights stay unchanged and `skipped` is True.
        """
        moves = self._engine.is_gradient_accumulation_boundary()
        if moves and self._stage == 0:
            self._prepare_gradients()
        self._engine.step()
        if not moves:
            return
        if self._stage:
            self.skipped = bool(self._engine.optimizer.overflow)
            self._grad_norm = self._engine.get_global_grad_norm()
        self.gradients_failed = self.skipped and (self._scale is None or self._scale.value == 1.0)
        self._updates += not self.skipped
        if self._scale is not None:
            self._scale.update(self.skipped)
            if self._stage:
                self._engine.optimizer.override_loss_scale(self._scale.value)
        # DeepSpeed would not advance the schedule in skipped steps, but the learning rate must
        # depend on the step number alone.
        self._scheduler.step()

    def _prepare_gradients(self) -> None:
        """Unscales, checks and clips the gradients, as ZeRO does itself in stages 1 to 3."""
        trained = [p for p in self._engine.module.parameters() if p.requires_grad]
        for parameter in trained:
            # An unused parameter gets gradient 0, as under ZeRO, so that it decays like the others.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            elif self._scale is not None:
                parameter.grad /= self._scale.value
        self._grad_norm = torch.nn.utils.get_total_norm([p.grad for p in trained])
        self.skipped = not self._grad_norm.isfinite()
        if self.skipped:
            for parameter in trained:
                parameter.grad = None  # AdamW skips it
        elif self._clip_norm:
            torch.nn.utils.clip_grads_with_norm_(trained, self._clip_norm, self._grad_norm)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self._engine(*inputs)

    @property
    def precision(self) -> str:
        names = {None: "fp32", torch.float16: "fp16 autocast", torch.bfloat16: "bf16 autocast"}
        return names[self.dtype]

    def train(self) -> None:
        self._engine.train()

    def eval(self) -> None:
        self._engine.eval()

    def grad_norm(self) -> float:
        """Returns the L2 norm of the gradients of the last step, before clipping."""
        return float(self._grad_norm)

    def learning_rate(self) -> float:
        """Returns the learning rate of the next step."""
        return float(self._engine.get_lr()[0])

    def whole_model(self) -> Model:
        """Returns the model with all its weights, for predictions and exports. Collective.

        Under ZeRO-3 this is a copy, which takes memory as long as it is referenced.
        """
        module = self._engine.module
        if self._empty_model is None:
            return module
        return zero_state.gathered_copy(module, self._empty_model).train(module.training)

    def state(self) -> dict[str, Any]:
        """Returns JSON values: the number of updates of the weights, and the loss scale of fp16."""
        scale = [] if self._scale is None else [self._scale.value, self._scale.steps]
        return {"updates": self._updates, "loss_scale": scale}

    def moments(self) -> dict[str, torch.Tensor]:
        """Returns the optimizer's moments on the CPU, see `zero_state.get_moments`. Collective.

        Only rank 0 gets them. The others get an empty dict.
        """
        return zero_state.get_moments(self._engine)


def _create_optimizer(model: Model, config: TrainConfig) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, config.optim.weight_decay, config.optim.lr),
        # The default implementation reads and writes the states a dozen times per step on a CPU,
        # and launches hundreds of kernels on a GPU.
        fused=config.offload_optimizer or model.device.type == "cuda",
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def use_channels_last(model: nn.Module) -> None:
    """Stores the kernels of 2D convolutions with channels last.

    Feature maps then have this layout too, which tensor cores use without conversions.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)


def _parameter_groups(model: Model, weight_decay: float, lr: float) -> list[dict[str, Any]]:
    """Returns parameter groups by learning rate and weight decay.

    Only parameters with two or more dimensions decay, because decay of biases and norm scales hurts
    the fit. `Model.lr_scales` maps prefixes of parameter names to factors of the learning rate.
    """
    scales = model.lr_scales
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = next((scales[start] for start in scales if name.startswith(start)), 1.0)
            groups.setdefault((scale, parameter.dim() >= 2), []).append(parameter)
    return [
        {"params": params, "weight_decay": weight_decay if is_matrix else 0.0, "lr": scale * lr}
        for (scale, is_matrix), params in sorted(groups.items(), reverse=True, key=lambda g: g[0])
    ]
