"""A model under DeepSpeed: mixed precision, ZeRO, gradient accumulation and clipping.

Nothing is compiled at run time: the optimizer is torch's own AdamW handed over by us.
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
    """One model on this rank.

    Args:
        model: with the weights to start from, the same on every rank.
        config: of the run.
        schedule: factor of the learning rate at a step.
        device: of this rank.
        step: that the weights are of.
        moments: of the optimizer at that step, as `moments()` gives them; None on ranks other than
            the first, which hands them out.
        state: what else there was at that step, as `state()` gives it, on every rank.

    Attributes:
        skipped: whether the last step left the weights alone, because gradients were not finite.
        gradients_failed: whether they were so for another reason than the loss scale of fp16.
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
        # Under ZeRO-3 a rank holds its share of the weights only; whole ones go into copies of it.
        self._empty_model = zero_state.empty_copy(model) if self._stage == 3 else None
        if world_size() > 1 and config.sync_batch_norm:
            synchronize_batch_norm(model)
        if config.activation_checkpointing:
            checkpoint_activations(model)
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
        """Goes on from a step, with the arguments of the constructor."""
        self._updates = state["updates"]
        self._scale = None
        if self.dtype == torch.float16:
            self._scale = self._own_loss_scale(GradScalerState(*state["loss_scale"]))
        zero_state.create_moments(self._engine, self._updates)
        if step:
            zero_state.set_moments(self._engine, moments or {})

    def _own_loss_scale(self, scale: GradScalerState) -> GradScalerState:
        """In place of DeepSpeed's for autocast, which clips gradients that are still scaled.

        Under ZeRO each rank would also decide alone whether its share has overflowed.
        """
        self._engine.torch_autocast_z0_gradscaler = None
        self._engine.optimizer.torch_autocast_gradscaler = None
        if self._stage:
            self._engine.optimizer.override_loss_scale(scale.value)
        return scale

    def train_step(self, loss: torch.Tensor) -> None:
        """Backward of a micro step; the optimizer moves when enough have been accumulated."""
        self.backward(loss)
        self.step()

    def backward(self, loss: torch.Tensor) -> None:
        """Adds a micro step's gradients, of all ranks together when the optimizer is to move."""
        if self._scale is not None and self._stage == 0:
            loss = loss * self._scale.value
        self._engine.backward(loss)

    def step(self) -> None:
        """After `backward`: moves the optimizer when enough micro steps have been accumulated.

        Weights stay as they are when the gradients are not finite; `skipped` tells.
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
        # Here and not by DeepSpeed, which leaves it out where a step is skipped: the learning rate
        # follows from the number of the step alone.
        self._scheduler.step()

    def _prepare_gradients(self) -> None:
        """Norm, clipping, and whether they are fit to be used: what ZeRO does itself."""
        trained = [p for p in self._engine.module.parameters() if p.requires_grad]
        for parameter in trained:
            # What a batch does not use has gradient 0, as under ZeRO, and decays like the rest.
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            elif self._scale is not None:
                parameter.grad /= self._scale.value
        self._grad_norm = torch.nn.utils.get_total_norm([p.grad for p in trained])
        self.skipped = not self._grad_norm.isfinite()
        if self.skipped:
            for parameter in trained:
                parameter.grad = None  # AdamW passes over it
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
        """Of the last step, before clipping."""
        return float(self._grad_norm)

    def learning_rate(self) -> float:
        return float(self._engine.get_lr()[0])

    def whole_model(self) -> Model:
        """Collective: the model with all its weights, to predict with and to export.

        Under ZeRO-3 a copy, which takes memory for as long as it is kept.
        """
        module = self._engine.module
        if self._empty_model is None:
            return module
        return zero_state.gathered_copy(module, self._empty_model).train(module.training)

    def state(self) -> dict[str, Any]:
        """JSON values: the steps in which weights moved, and of fp16 the loss scale."""
        scale = [] if self._scale is None else [self._scale.value, self._scale.steps]
        return {"updates": self._updates, "loss_scale": scale}

    def moments(self) -> dict[str, torch.Tensor]:
        """Collective: the optimizer's moments by name of moment and parameter, on the CPU.

        Empty on ranks other than the first.
        """
        return zero_state.get_moments(self._engine)


def _create_optimizer(model: Model, config: TrainConfig) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, config.optim.weight_decay, config.optim.lr),
        # On CPUs the usual implementation reads and writes the states a dozen times a step.
        fused=config.offload_optimizer,
    )
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _parameter_groups(model: Model, weight_decay: float, lr: float) -> list[dict[str, Any]]:
    """Decay for matrices only: decayed biases and norm scales would fight the data.

    A model's `lr_scales` are factors of the learning rate by the beginning of a parameter's name.
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
