"""Nobody but this user, on this machine, reaches what `mizzen serve` starts."""

from __future__ import annotations

import ipaddress
import socket
import stat
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from mizzen.local_ray import LOOPBACK

NUM_REPLICAS = 2
OPEN_BY_RAY = {"ray::ServeReplica": NUM_REPLICAS}
"""Processes that listen on every interface without a setting to close it, with the number of their ports:
each replica's server for calls from other deployments, of which there are none. It wants the token."""


@pytest.fixture(scope="module")
def server(home, launch):
    home.publish({"constant": 100})
    apps = [
        {"name": "adder", "model": "adder@production", "num_cpus": 0.1},
        {"name": "other", "model": "adder@production", "num_cpus": 0.1},
    ]
    server = launch(home, {"apps": apps})
    server.wait_for("serving at")
    return server


def command(process: psutil.Process) -> list[str]:
    """Its command line, empty if it is gone: Ray starts workers in reserve, and ends them."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def listening(server) -> list[tuple[set[str], str, int]]:
    """Names of the process, address and port of every TCP socket on which our processes listen."""
    found = []
    for process in server.tree():
        try:
            connections, names = process.net_connections(kind="tcp"), {process.name(), *command(process)[:1]}
        except psutil.NoSuchProcess:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                found.append((names, connection.laddr.ip, connection.laddr.port))
    return found


def is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def other_addresses() -> list[str]:
    """Addresses of this machine that are not 127.0.0.1; the first is another interface's, if there is one."""
    others = [
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == socket.AF_INET and not is_loopback(address.address)
    ]
    # A server that is bound to 127.0.0.1 refuses calls to 127.0.0.2, one on every interface takes them.
    return [*others, "127.0.0.2"]


def refuses(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=3, source_address=(address, 0)).close()
    except ConnectionRefusedError:
        return True
    return False


def status_without_token(address: str, port: int, method: str, token: str | None = None) -> grpc.StatusCode:
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(f"{address}:{port}") as channel:
        call = channel.unary_unary(method)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=10, metadata=metadata)
        code: grpc.StatusCode = caught.value.code()
        return code


def test_the_server_answers_on_loopback(server, client):
    assert client.get(f"{server.url}/adder/readyz").is_success


def test_no_port_is_open_to_other_addresses_but_those_that_are_listed(listening):
    assert len(listening) > 5
    open_ports: dict[str, int] = {}
    for names, address, _ in listening:
        if not is_loopback(address):
            known = [one for one in OPEN_BY_RAY if any(name.startswith(one) for name in names)]
            name = known[0] if known else " ".join(names)
            open_ports[name] = open_ports.get(name, 0) + 1
    assert open_ports == OPEN_BY_RAY


@pytest.mark.parametrize("address", other_addresses())
def test_a_stranger_at_another_address_is_refused_at_every_port(server, listening, address):
    reached = []
    for _, bound_to, port in listening:
        if refuses(address, port):
            assert is_loopback(bound_to)
        else:
            reached.append(port)
    assert len(reached) == sum(OPEN_BY_RAY.values())
    assert server.spec["http"]["port"] not in reached
    for port in reached:
        code = status_without_token(address, port, "/ray.serve.ASGIService/HandleRequest")
        assert code == grpc.StatusCode.UNAUTHENTICATED
        code = status_without_token(address, port, "/ray.serve.ASGIService/HandleRequest", token="0" * 64)
        assert code == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("gcs_server", "/ray.rpc.JobInfoGcsService/GetAllJobInfo"),
        ("raylet", "/ray.rpc.NodeManagerService/GetNodeStats"),
        ("raylet", "/ray.rpc.ObjectManagerService/Push"),
        ("ray::ServeController", "/ray.rpc.CoreWorkerService/PushTask"),
    ],
)
def test_another_user_of_this_machine_cannot_command_ray(listening, name, method):
    ports = [port for names, _, port in listening if any(one.startswith(name) for one in names)]
    codes = {status_without_token(LOOPBACK, port, method) for port in ports}
    assert grpc.StatusCode.UNAUTHENTICATED in codes
    assert codes <= {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}


def test_there_is_no_dashboard_and_no_job_api(listening):
    for _, _, port in listening:
        try:
            response = httpx.get(f"http://{LOOPBACK}:{port}/api/jobs/", timeout=3.0, trust_env=False)
        except httpx.HTTPError:
            continue  # not an HTTP server
        assert (
            response.status_code in (401, 403, 404, 405) or "mizzen" in response.text or is_metrics(response)
        )


def is_metrics(response: httpx.Response) -> bool:
    return response.is_success and response.text.startswith("#")


def test_files_and_sockets_are_this_users_alone_and_the_token_is_in_no_log_or_command_line(server):
    roots = {
        Path(part.removeprefix("--session-dir=")).parents[1]
        for process in server.tree()
        for part in command(process)
        if part.startswith("--session-dir=")
    }
    (folder,) = roots
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    token = (folder / "token").read_text().strip()
    assert len(token) == 64
    for process in server.tree():
        assert token not in " ".join(command(process))
    logs = [path for path in folder.rglob("*") if path.is_file() and path.name != "token"]
    assert logs
    for path in logs:
        assert token.encode() not in path.read_bytes(), path
