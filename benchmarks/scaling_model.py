"""On paper: what many H200s would do with a training, from what one step of it is known to take.

Nothing here is measured on such a machine. `TrainingCost` is counted from the model and the data;
`Machine` holds every assumption, and is printed beside the result.
"""

import math
from dataclasses import dataclass, field, fields


@dataclass(frozen=True)
class TrainingCost:
    """Counted or measured, of one training, whatever trains it."""

    parameters: int
    """That are trained."""
    flops_per_sample: float
    """Forward and backward, products only, by torch.utils.flop_counter."""
    sample_bytes: float
    """Decoded, as they are sent to a GPU."""
    loader_seconds_per_sample: float
    """Of one core, for reading, decoding and augmenting."""
    norm_layers: int
    """Batch norms whose statistics span the ranks: two all-reduces each in a step."""
    norm_channels: int
    """Of all of them together."""


def _assumed(value: float, source: str):
    return field(default=value, metadata={"source": source})


@dataclass(frozen=True)
class Machine:
    """Nodes of H200s. Figures are of one GPU where they say nothing else."""

    peak_flops: float = _assumed(989e12, "dense bf16; data sheet")
    utilization: float = _assumed(0.3, "of the peak, by a step's products; assumed unless given")
    gpus_per_node: int = _assumed(8, "as in DGX and HGX H200")
    nvlink_bytes: float = _assumed(450e9, "a second each way; data sheet, 900 GB/s both ways")
    network_bytes: float = _assumed(50e9, "a second each way; a 400 Gb/s port for each GPU")
    link_efficiency: float = _assumed(0.8, "of both, in large all-reduces; assumed")
    node_latency: float = _assumed(20e-6, "s, a small all-reduce within a node; assumed")
    hop_latency: float = _assumed(8e-6, "s more for each doubling of the nodes; assumed")
    gradient_bytes: int = _assumed(2, "an element: under autocast DeepSpeed reduces in bf16")
    loader_cores: float = _assumed(12, "that load for a GPU, each as fast as one here; assumed")
    host_bytes: float = _assumed(50e9, "a second from host to GPU; PCIe 5 x16, less protocol")


@dataclass(frozen=True)
class Projection:
    """Seconds of a step and what it comes to."""

    gpus: int
    compute: float
    all_reduce: float
    norm_sync: float
    data: float
    samples_per_second: float
    efficiency: float
    """Against as many GPUs that need not talk and never wait for data."""
    binds_first: str
    binds_next: str
    """Were that one solved."""


def project(cost: TrainingCost, machine: Machine, gpus: int, batch_size: int) -> Projection:
    """A step of `batch_size` samples a GPU on `gpus` GPUs.

    Gradients are reduced after the backward pass, as DeepSpeed does by default in stages 0 to 2;
    samples are loaded meanwhile. The all-reduce is hierarchical: among the GPUs of a node over
    NVLink, then each GPU's share among the nodes over its own port.
    """
    compute = batch_size * cost.flops_per_sample / (machine.peak_flops * machine.utilization)
    all_reduce = _gradient_seconds(cost, machine, gpus)
    norm_sync = _norm_seconds(cost, machine, gpus)
    data = batch_size * max(
        cost.loader_seconds_per_sample / machine.loader_cores,
        cost.sample_bytes / machine.host_bytes,
    )
    waits = {"data": data, "all-reduce": all_reduce, "batch norm sync": norm_sync}
    step = _step_seconds(compute, waits)
    first = _binding(compute, waits)
    return Projection(
        gpus=gpus,
        compute=compute,
        all_reduce=all_reduce,
        norm_sync=norm_sync,
        data=data,
        samples_per_second=gpus * batch_size / step,
        efficiency=compute / step,
        binds_first=first if step > 1.05 * compute else "arithmetic",
        binds_next=_binding(compute, {**waits, first: 0.0}),
    )


def _step_seconds(compute: float, waits: dict[str, float]) -> float:
    return max(waits["data"], compute + waits["all-reduce"] + waits["batch norm sync"])


def _binding(compute: float, waits: dict[str, float]) -> str:
    """That without which a step would be shortest."""
    return min(waits, key=lambda name: _step_seconds(compute, {**waits, name: 0.0}))


def _gradient_seconds(cost: TrainingCost, machine: Machine, gpus: int) -> float:
    nodes, local = _nodes(machine, gpus)
    gradients = cost.parameters * machine.gradient_bytes
    inside = _ring(gradients, local, machine.nvlink_bytes * machine.link_efficiency)
    return inside + _ring(gradients / local, nodes, machine.network_bytes * machine.link_efficiency)


def _norm_seconds(cost: TrainingCost, machine: Machine, gpus: int) -> float:
    if gpus == 1:
        return 0.0
    nodes, _ = _nodes(machine, gpus)
    latency = machine.node_latency + machine.hop_latency * math.ceil(math.log2(nodes))
    # Means, squares and counts in float64; two sums of gradients in float32 on the way back.
    num_bytes = 8 * (2 * cost.norm_channels + cost.norm_layers) + 4 * 2 * cost.norm_channels
    slowest = machine.nvlink_bytes if nodes == 1 else machine.network_bytes
    transfer = _ring(num_bytes, gpus, slowest * machine.link_efficiency)
    return 2 * cost.norm_layers * latency + transfer


def _nodes(machine: Machine, gpus: int) -> tuple[int, int]:
    """How many, and the GPUs that are used of each."""
    return math.ceil(gpus / machine.gpus_per_node), min(gpus, machine.gpus_per_node)


def _ring(num_bytes: float, members: int, bandwidth: float) -> float:
    """Seconds of an all-reduce that keeps every link busy in both directions."""
    return 2 * (members - 1) / members * num_bytes / bandwidth


def assumptions(machine: Machine) -> list[str]:
    """Each with its value and where it comes from."""
    return [
        f"{entry.name} {getattr(machine, entry.name):g}: {entry.metadata['source']}"
        for entry in fields(machine)
    ]
