"""Generates the client from proto/ and gives the tests their servers."""

import os
import pathlib
import re
import signal
import sys
from types import SimpleNamespace

import pytest
from generate import generate

ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path[:0] = [str(generate()), str(ROOT / "tests/clients")]

import transcripts  # noqa: E402
from calls import connect  # noqa: E402
from faulty_models import FaultyModels  # noqa: E402
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


@pytest.fixture
def victim(shared, request):
    """Another server on the Redis of the shared ones, to be ended."""
    return shared.start(re.sub(r"\W+", "-", request.node.name))


@pytest.fixture
def in_time():
    """What does not come fails the test, rather than to be waited for without end."""

    def give_up(*_):
        raise AssertionError("not within 60 s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def models():
    """Models that fail as they are told."""
    with FaultyModels() as faulty:
        yield faulty
