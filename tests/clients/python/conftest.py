"""Generates the client from proto/ and gives the tests their servers."""

import os
import pathlib
import sys
from importlib import resources
from types import SimpleNamespace

import pytest
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[3]
GENERATED = ROOT / "target/clients/python"


def generate():
    """Writes the Python client into target/, never into the repository."""
    GENERATED.mkdir(parents=True, exist_ok=True)
    files = sorted(str(path) for path in (ROOT / "proto").rglob("*.proto"))
    include = resources.files("grpc_tools") / "_proto"
    arguments = [f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={GENERATED}", f"--grpc_python_out={GENERATED}"]
    if protoc.main(["protoc", *arguments, *files]) != 0:
        raise RuntimeError("protoc failed")


generate()
sys.path[:0] = [str(GENERATED), str(ROOT / "tests/clients")]

import transcripts  # noqa: E402
from calls import connect  # noqa: E402
from fusewire.v1 import common_pb2  # noqa: E402
from servers import Fusewire, Redis  # noqa: E402


def pytest_terminal_summary(terminalreporter):
    """Prints which transcripts were used; some are not in every clone."""
    names = ", ".join(os.path.relpath(path, ROOT) for path in transcripts.FILES)
    terminalreporter.write_line(f"transcripts: {names}")


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Two servers, a and b, on one Redis. `start` starts another."""
    folder = tmp_path_factory.mktemp("shared")
    started = []

    def start(name):
        server = Fusewire(folder, name, REDIS_URL=f"redis://127.0.0.1:{redis.port}")
        started.append(server)
        return connect(server)

    redis = Redis.start(folder)
    try:
        a, b = start("a"), start("b")
        yield SimpleNamespace(
            name="shared", a=a, b=b, redis=redis, start=start, authority=common_pb2.AUTHORITY_SHARED
        )
    finally:
        for process in (*started, redis):
            process.end()


@pytest.fixture(scope="session")
def local(tmp_path_factory):
    """One server without Redis, in both places."""
    a = Fusewire(tmp_path_factory.mktemp("local"), USE_REDIS="false")
    try:
        connect(a)
        yield SimpleNamespace(name="local", a=a, b=a, authority=common_pb2.AUTHORITY_LOCAL)
    finally:
        a.end()


@pytest.fixture(scope="session", params=["shared", "local"])
def servers(request):
    """The two servers on one Redis, then the one without: everything holds for both."""
    return request.getfixturevalue(request.param)
