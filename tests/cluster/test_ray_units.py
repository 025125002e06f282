"""``sharcs predict --ray``: the same bytes on two nodes, though actors die and a node goes; ``make test-cluster``."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from helpers.cli import error_message, files_in, read_csv, sharcs, succeeds, write_csv
from records.make import HERE, ROWS
from sharcs.units import cluster as module
from sharcs.units.cluster import connect
from sharcs.units.place import LocalPlace
from sharcs.units.worker import UnitActor

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

# Actors have this package, and not this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

MODEL = HERE / "plus-2"
FILES = 6


@pytest.fixture(scope="module")
def cluster():
    """Start two nodes on this machine; the first has no processor for an actor."""
    nodes = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes.add_node(num_cpus=2)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write as many files as there will be units."""
    folder = tmp_path_factory.mktemp("data")
    rows = read_csv(ROWS)
    for part in range(FILES):
        write_csv(folder / f"{part}.csv", rows[20 * part : 20 * part + 20])
    return folder


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """Have one process answer them."""
    output = tmp_path_factory.mktemp("alone") / "out"
    succeeds("predict", MODEL, "--data", data, "--output", output, "--workers", 1)
    return tables(output)


def tables(folder):
    """Read the tables of a directory of answers."""
    return {name: content for name, content in files_in(folder).items() if not name.startswith("_sharcs")}


class Mortal(UnitActor):
    """Dies of a unit as often as files say, or takes its node with it."""

    def answer(self, number, full):
        """Answer a unit, or die."""
        death = f"{self._task[0].output}-death-{number}"
        for name in (death, f"{death}-2"):
            if os.path.exists(name):
                os.unlink(name)
                os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(number, full)


def test_the_bytes_are_those_of_one_process_and_all_is_done_once(cluster, data, alone, tmp_path):
    output = tmp_path / "out"
    arguments = ("predict", MODEL, "--data", data, "--output", output, "--ray", cluster.address)
    said = succeeds(*arguments).err
    assert f"({FILES} units)" in said
    assert tables(output) == alone
    assert "all was done before" in succeeds(*arguments).err


def test_a_killed_actor_costs_nothing(cluster, data, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UnitActor", Mortal)
    output = tmp_path / "out"
    (tmp_path / "out-death-2").touch()
    succeeds("predict", MODEL, "--data", data, "--output", output, "--ray", cluster.address)
    assert not (tmp_path / "out-death-2").exists()
    assert tables(output) == alone


def test_a_unit_that_actors_die_of_is_named(cluster, data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UnitActor", Mortal)
    output = tmp_path / "out"
    for name in ("out-death-3", "out-death-3-2"):
        (tmp_path / name).touch()
    message = error_message(sharcs("predict", MODEL, "--data", data, "--output", output, "--ray", cluster.address))
    assert message.startswith(f"{data}/3.csv: 2 actors died of rows 1 to 20")


class Slow(UnitActor):
    """Waits before each unit until a file is there."""

    def answer(self, number, full):
        """Answer a unit when it may."""
        import time

        while number and not os.path.exists(f"{self._task[0].output}-go"):
            time.sleep(0.05)
        return super().answer(number, full)


def test_a_node_that_goes_costs_nothing(cluster, data, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UnitActor", Slow)
    node = cluster.add_node(num_cpus=2)
    output = tmp_path / "out"
    taken = module.ClusterActors._done
    gone = []

    def remove_it(self, actor, done):
        if not gone:
            gone.append(cluster.remove_node(node))
            (tmp_path / "out-go").touch()
        return taken(self, actor, done)

    monkeypatch.setattr(module.ClusterActors, "_done", remove_it)
    succeeds("predict", MODEL, "--data", data, "--output", output, "--ray", cluster.address)
    assert gone
    assert tables(output) == alone


def test_a_cluster_without_a_free_processor_is_said(cluster, data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 3.0)
    hold = connect(cluster.address)
    holders = [hold.remote(num_cpus=1)(Mortal).remote((None, _NoUnits(), None)) for _ in range(2)]
    hold.get([holder.__ray_ready__.remote() for holder in holders])
    monkeypatch.setattr(module, "connect", lambda address: hold)
    output = tmp_path / "out"
    message = error_message(sharcs("predict", MODEL, "--data", data, "--output", output, "--ray", cluster.address))
    assert "no processor was free for 3 s, and 0 are now" in message


class _NoUnits:
    def units(self):
        """Have none."""
        return []


def test_an_output_that_is_not_shared_is_said_at_the_first_unit(cluster, data, tmp_path, monkeypatch):
    elsewhere = LocalPlace(str(tmp_path / "another-machine"))
    monkeypatch.setattr(module, "place_of", lambda output: elsewhere)
    output = tmp_path / "out"
    message = error_message(sharcs("predict", MODEL, "--data", data, "--output", output, "--ray", cluster.address))
    assert message.startswith(f"--output {output}: what node ")
    assert "name a directory that all machines share, or a URL" in message


def test_a_data_set_that_is_no_file_keeps_its_name(cluster, tmp_path):
    output = tmp_path / "out"
    succeeds("predict", MODEL, "--data", "reuters-r8:test", "--output", output, "--ray", cluster.address)
    (table,) = tables(output)
    assert table == "reuters-r8-test.parquet"


def test_a_wrong_token_is_said_in_one_line(data, tmp_path, monkeypatch):
    ray_command = [sys.executable, "-m", "ray.scripts.scripts"]
    port = free_port()
    begin = [*ray_command, "start", "--head", "--port", port, "--num-cpus", "1", "--include-dashboard", "false"]
    right = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "the token of this cluster"}
    words = ("predict", MODEL, "--data", data, "--output", tmp_path / "out", "--ray", f"127.0.0.1:{port}")
    command = [sys.executable, "-c", "from sharcs_cli.app import main; main()", *map(str, words)]
    with subprocess.Popen(
        [*begin, "--block"], env=right, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as head:
        wait_for_port(port)
        try:
            for token in ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another one"}, {}):
                wrong = subprocess.run(command, env=os.environ | token, capture_output=True, text=True, timeout=60)
                message = f"sharcs: error: --ray 127.0.0.1:{port}: the cluster does not take our token; "
                assert wrong.returncode == 2
                assert message in wrong.stderr.splitlines()[-1]
                assert "gcs_client" not in wrong.stderr
            assert subprocess.run(command, env=right, timeout=60).returncode == 0
        finally:
            head.terminate()


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def wait_for_port(port):
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", int(port)), 1).close()
            return
        except OSError:
            time.sleep(0.2)


class Stillborn(UnitActor):
    """Can't be made."""

    def __init__(self, task):
        os._exit(1)


def test_actors_that_never_begin_are_said(cluster, data, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UnitActor", Stillborn)
    output = tmp_path / "out"
    message = error_message(sharcs("predict", MODEL, "--data", data, "--output", output, "--ray", cluster.address))
    assert "3 actors died before they began" in message


def test_an_address_where_nobody_is_is_said_at_once(data, tmp_path):
    address = f"127.0.0.1:{free_port()}"
    message = error_message(sharcs("predict", MODEL, "--data", data, "--output", tmp_path / "out", "--ray", address))
    assert f"--ray {address}: nobody answers there" in message


def test_what_is_no_address_is_refused(data, tmp_path):
    message = error_message(
        sharcs("predict", MODEL, "--data", data, "--output", tmp_path / "out", "--ray", "cluster")
    )
    assert "--ray cluster: has to be HOST:PORT, or auto" in message
