"""Two nodes on one machine: linked network namespaces with their own addresses."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from occvae.train.checkpoint import list_checkpoints
from tests.tiny import TINY_RUN
from tests.train.ranks import no_rank_left, start, wait_until

pytestmark = pytest.mark.usefixtures(no_rank_left.__name__)
ROOT = Path(__file__).parents[2]
LAUNCHER = Path(sys.executable).parent / "deepspeed"
STEPS = 20
# This is the learning rate of the preset. Four times as much amplifies rounding quickly.
SETTINGS = ["precision=fp32", "optim.steps=2000", "validate_every=2000", "log_every=1"]
SETTINGS += ["optim.lr=5e-4"]
FRESH = ["--preset", "cpu-small", *TINY_RUN, *SETTINGS]


@dataclass
class Nodes:
    names: tuple[str, str]
    addresses: tuple[str, str]

    def cut(self) -> None:
        ip(f"-n {self.names[1]} link set eth0 down")


def ip(arguments: str) -> None:
    subprocess.run(["ip", *arguments.split()], check=True, capture_output=True, text=True)


@pytest.fixture
def nodes():
    number = os.getpid() % 10_000
    names = (f"occvae{number}a", f"occvae{number}b")
    found = Nodes(names, ("10.77.0.1", "10.77.0.2"))
    try:
        for name in names:
            ip(f"netns add {name}")
        ends = [f"oc{number}{end}" for end in "ab"]
        ip(f"link add {ends[0]} type veth peer name {ends[1]}")
        for name, end, address in zip(names, ends, found.addresses, strict=True):
            ip(f"link set {end} netns {name} name eth0")
            ip(f"-n {name} addr add {address}/24 dev eth0")
            ip(f"-n {name} link set lo up")
            ip(f"-n {name} link set eth0 up")
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        remove(names)
        pytest.skip(f"network namespaces are not permitted here: {str(reason).strip()}")
    yield found
    remove(names)


def remove(names) -> None:
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def losses(run: Path) -> list[float]:
    records = run / "metrics.jsonl"
    lines = records.read_text().splitlines() if records.exists() else []
    return [json.loads(line)["train/loss"] for line in lines if line.endswith("}")]


def launch(nodes: Nodes, node: int, folder: Path, arguments: list) -> subprocess.Popen:
    """Starts the command in docs/guides/multi_node.md on one node."""
    hostfile = folder / "hostfile"
    hostfile.write_text("nodeA slots=1\nnodeB slots=1\n")
    command = ["ip", "netns", "exec", nodes.names[node], LAUNCHER, "--hostfile", hostfile]
    command += ["--no_ssh", "--node_rank", node, "--master_addr", nodes.addresses[0]]
    command += ["--master_port", 29533, ROOT / "launchers" / "train.py", *arguments]
    log = (folder / f"node-{node}.log").open("w")
    return subprocess.Popen(
        [str(word) for word in command],
        stdout=log,
        stderr=log,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_two_nodes_train_like_one_process_and_stop_together(nodes, tiny_dataset, tmp_path):
    """A SIGTERM to the front process of deepspeed on one node saves and stops both nodes."""
    data, run = ["--data", tiny_dataset], tmp_path / "two"
    arguments = [*data, *FRESH, "optim.batch_size=2"]
    elsewhere = tmp_path / "elsewhere"  # nodes share no folder: only rank 0 writes one
    fronts = [
        launch(nodes, node, tmp_path, ["--out", out, *arguments])
        for node, out in enumerate([run, elsewhere])
    ]
    [rank] = start(tmp_path, ["--out", tmp_path / "one", *data, *FRESH])
    try:
        wait_until(lambda: len(losses(tmp_path / "one")) >= STEPS, rank)
        os.kill(rank.pid, signal.SIGTERM)
        assert rank.status() == 143
        wait_until(lambda: len(losses(run)) >= STEPS)
        fronts[0].send_signal(signal.SIGTERM)
        # The front process dies at once. Its ranks notice and stop together with the other node.
        status = [front.wait(timeout=120) for front in fronts]
        wait_until(lambda: list_checkpoints(run))
    finally:
        for front in fronts:
            front.kill()
    log = (tmp_path / "node-1.log").read_text()
    assert status == [-signal.SIGTERM, 143], log
    one, two = losses(tmp_path / "one")[:STEPS], losses(run)[:STEPS]
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-5
    assert one[-1] < one[0]
    assert not elsewhere.exists()


@pytest.mark.slow
def test_a_cut_network_ends_both_nodes_in_time(nodes, tiny_dataset, tmp_path):
    timeout, run = 5, tmp_path / "run"
    arguments = ["--out", run, "--data", tiny_dataset, *FRESH, "--timeout", timeout]
    ranks = [
        start(
            tmp_path,
            arguments,
            namespace=name,
            RANK=str(node),
            LOCAL_RANK="0",
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="1",
            MASTER_ADDR=nodes.addresses[0],
            MASTER_PORT="29534",
        )[0]
        for node, name in enumerate(nodes.names)
    ]
    wait_until(lambda: len(losses(run)) >= 3, ranks[0])
    nodes.cut()
    begin = time.monotonic()
    assert [rank.status() for rank in ranks] == [1, 1]
    assert time.monotonic() - begin < 10 * timeout
    for number, rank in enumerate(ranks):
        [line] = rank.errors()
        assert line.startswith(f"error: rank {number} on ")
        assert "lost contact with other ranks (Timed out waiting 5000ms" in line
