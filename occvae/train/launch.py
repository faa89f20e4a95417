"""The environment variables by which launchers and schedulers describe the ranks."""

import fcntl
import re
import socket
import struct
from collections.abc import MutableMapping

from occvae.errors import UserError
from occvae.train.failures import ReportedByPeer

Environment = MutableMapping[str, str]

_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MPIRUN = [f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")]
_SRUN_TASKS = "SLURM_STEP_NUM_TASKS"  # unlike SLURM_NTASKS, set by srun only
_IFREQ_ADDRESS = 0x8915  # SIOCGIFADDR of Linux


def complete_environment(env: Environment) -> None:
    """Adds RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT.

    torchrun and deepspeed set them. Under mpirun and srun they are derived from the variables of
    Open MPI and Slurm. Without a launcher they describe a run of one process.

    Args:
        env: environment to complete in place.

    Raises:
        UserError: variables are missing or contradict each other.
    """
    if "RANK" in env or "WORLD_SIZE" in env:
        found = _named(env)
    elif "OMPI_COMM_WORLD_RANK" in env:
        found = _of_mpirun(env)
    elif _SRUN_TASKS in env:
        found = _of_srun(env)
    else:
        found = dict(zip(_RANKS, ("0", "1", "0", "1"), strict=True))
    env.update({name: found.pop(name) for name in _RANKS})
    for name, value in found.items():
        env.setdefault(name, value)
    _check(env)
    if env["WORLD_SIZE"] == "1":
        env.setdefault("MASTER_ADDR", "127.0.0.1")
    env.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in env:
        raise _incomplete("MASTER_ADDR is not set, the host of rank 0", env["RANK"])


def _named(env: Environment) -> dict[str, str]:
    single = env.get("WORLD_SIZE") == "1"
    for name in ("RANK", "WORLD_SIZE", *([] if single else ["LOCAL_RANK"])):
        if name not in env:
            raise _incomplete(f"the launcher did not set {name}", env.get("RANK", "0"))
    # deepspeed calls it LOCAL_SIZE.
    local = env.get("LOCAL_WORLD_SIZE", env.get("LOCAL_SIZE", "1"))
    return {
        "RANK": env["RANK"],
        "WORLD_SIZE": env["WORLD_SIZE"],
        "LOCAL_RANK": env.get("LOCAL_RANK", "0"),
        "LOCAL_WORLD_SIZE": local,
    }


def _of_mpirun(env: Environment) -> dict[str, str]:
    rank = env["OMPI_COMM_WORLD_RANK"]
    for name in _MPIRUN:
        if name not in env:
            raise _incomplete(f"mpirun did not set {name}", rank)
    found = {name: env[theirs] for name, theirs in zip(_RANKS, _MPIRUN, strict=True)}
    if found["LOCAL_WORLD_SIZE"] == found["WORLD_SIZE"]:
        found["MASTER_ADDR"] = "127.0.0.1"
    elif "MASTER_ADDR" not in env:
        raise _incomplete("mpirun on several hosts needs -x MASTER_ADDR=(the first host)", rank)
    return found


def _of_srun(env: Environment) -> dict[str, str]:
    rank = env.get("SLURM_PROCID", "0")
    names = ("PROCID", "LOCALID", "NODEID", "STEP_TASKS_PER_NODE", "STEP_NODELIST", "JOB_ID")
    for name in names:
        if f"SLURM_{name}" not in env:
            raise _incomplete(f"srun did not set SLURM_{name}", rank)
    job = env["SLURM_JOB_ID"] + env.get("SLURM_STEP_ID", "")
    return {
        "RANK": rank,
        "WORLD_SIZE": env[_SRUN_TASKS],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": _tasks(env["SLURM_STEP_TASKS_PER_NODE"], int(env["SLURM_NODEID"])),
        "MASTER_ADDR": first_host(env["SLURM_STEP_NODELIST"]),
        # Jobs that share a node need different ports.
        "MASTER_PORT": str(20_000 + int(job) % 10_000),
    }


def first_host(nodes: str) -> str:
    """Returns the first host of a Slurm node list, e.g. node03 of node[03-07,9],gpu1."""
    match = re.match(r"([^\[,]+)(?:\[(\w+)[^\]]*\])?", nodes)
    if match is None:
        raise UserError(
            f"SLURM_STEP_NODELIST={nodes}: expected a list of hosts such as node[03-07]"
        )
    return match[1] + (match[2] or "")


def _tasks(counts: str, node: int) -> str:
    """Returns the number of tasks on a node. Slurm writes the counts 2, 2, 2, 1 as 2(x3),1."""
    expanded = []
    for entry in counts.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", entry)
        if match is None:
            raise UserError(f"SLURM_STEP_TASKS_PER_NODE={counts}: expected counts such as 2(x3),1")
        expanded += [match[1]] * int(match[2] or 1)
    return expanded[node]


def _check(env: Environment) -> None:
    try:
        rank, size, local_rank, local_size = (int(env[name]) for name in _RANKS)
        consistent = 0 <= rank < size and 0 <= local_rank < local_size <= size
    except ValueError:
        consistent = False
    told = ", ".join(f"{name}={env[name]}" for name in _RANKS)
    if not consistent:
        raise UserError(f"the launcher's variables contradict each other: {told}")
    for scheduler, name in (("mpirun", _MPIRUN[1]), ("srun", _SRUN_TASKS)):
        if int(env.get(name, "1")) > size:
            raise _incomplete(
                f"{scheduler} started {env[name]} processes, but WORLD_SIZE={size} is set; "
                "unset RANK and WORLD_SIZE",
                env.get("SLURM_PROCID", env.get(_MPIRUN[0], "0")),
            )


def _incomplete(message: str, rank: str) -> UserError:
    """Returns the error for this rank. All ranks lack the same variable, and rank 0 reports it."""
    return UserError(message) if rank == "0" else ReportedByPeer(message)


def check_address(env: Environment) -> None:
    """Checks that MASTER_ADDR is a known host, before the ranks wait for each other.

    Raises:
        UserError: the host is unknown.
    """
    address = env.get("MASTER_ADDR", "127.0.0.1")
    try:
        socket.getaddrinfo(address, None)
    except (OSError, UnicodeError) as error:
        message = f"MASTER_ADDR={address}: no such host ({getattr(error, 'strerror', error)})"
        first = env["LOCAL_RANK"] == "0"
        raise UserError(message) if first else ReportedByPeer(message) from None


def choose_interface(env: Environment) -> None:
    """Sets GLOO_SOCKET_IFNAME if gloo would announce an address that other nodes cannot reach.

    Gloo announces the address that the host's own name resolves to. On many systems this is a
    loopback address.

    Raises:
        UserError: no network interface leads to MASTER_ADDR.
    """
    local = env["LOCAL_WORLD_SIZE"] == env["WORLD_SIZE"]
    if local or "GLOO_SOCKET_IFNAME" in env or not _is_loopback(socket.gethostname()):
        return
    if _is_loopback(env["MASTER_ADDR"]):
        return  # all launchers run on this host
    interface = _interface_towards(env["MASTER_ADDR"])
    if interface is None:
        raise UserError(
            f"the host name {socket.gethostname()} resolves to a loopback address, which other "
            "nodes cannot reach; set GLOO_SOCKET_IFNAME to the network interface to use"
        )
    env["GLOO_SOCKET_IFNAME"] = interface


def _is_loopback(host: str) -> bool:
    try:
        return socket.gethostbyname(host).startswith("127.")
    except OSError:
        return False


def _interface_towards(host: str) -> str | None:
    """Returns the network interface from which packets to a host are sent, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))  # sends nothing
        except OSError:
            return None
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            try:
                request = struct.pack("256s", name.encode())
                reply = fcntl.ioctl(probe.fileno(), _IFREQ_ADDRESS, request)
            except OSError:
                continue  # it has no address
            if socket.inet_ntoa(reply[20:24]) == own:
                return name
    return None
