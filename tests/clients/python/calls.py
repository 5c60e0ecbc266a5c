"""What several tests ask of a server, and the checks that hold for every answer."""

import pathlib
import signal

import grpc
import pytest
from fusewire.v1 import circuit_breakers_pb2_grpc as breakers_grpc
from fusewire.v1 import conversation_threads_pb2 as pb
from fusewire.v1 import conversation_threads_pb2_grpc as pb_grpc
from fusewire.v1 import diagnostics_pb2, diagnostics_pb2_grpc
from google.rpc import error_details_pb2, status_pb2

DETAILS = {
    f"type.googleapis.com/google.rpc.{name}": getattr(error_details_pb2, name)
    for name in ("ErrorInfo", "BadRequest", "RetryInfo", "ResourceInfo", "QuotaFailure", "PreconditionFailure")
}

# Two ways to end a server, and its exit status.
ENDINGS = pytest.mark.parametrize(
    "sig, status", [(signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)], ids=["term", "kill"]
)


# What is shipped for clients: which calls a channel repeats by itself.
SERVICE_CONFIG = pathlib.Path(__file__).resolve().parents[3] / "proto/service_config.json"


def connect(server, *options):
    """Gives a server (whatever has an address) its channel, with these options, and the stubs."""
    server.channel = grpc.insecure_channel(server.address, options=[("grpc.enable_http_proxy", 0), *options])
    server.threads = pb_grpc.ConversationThreadsStub(server.channel)
    server.breakers = breakers_grpc.CircuitBreakersStub(server.channel)
    server.diagnostics = diagnostics_pb2_grpc.DiagnosticsStub(server.channel)
    return server


def status(server):
    """What the server says of itself."""
    return server.diagnostics.GetStatus(diagnostics_pb2.GetStatusRequest(), timeout=5)


def append(server, thread_id, messages, size=7, **fields):
    """Appends in batches of that size; returns the AppendedMessages and the last answer."""
    appended, answer = [], None
    for start in range(0, len(messages), size):
        answer = server.threads.AppendMessages(
            pb.AppendMessagesRequest(
                thread_id=thread_id, messages=messages[start : start + size], create_if_missing=True, **fields
            )
        )
        appended += answer.messages
    return appended, answer


def read(server, thread_id, page_size=5, **fields):
    """All messages, page by page; no page is larger than asked."""
    found, token = [], ""
    while True:
        page = server.threads.ListMessages(
            pb.ListMessagesRequest(thread_id=thread_id, page_size=page_size, page_token=token, **fields)
        )
        assert len(page.messages) <= page_size
        found += page.messages
        token = page.next_page_token
        if not token:
            return found


def sent(stored):
    """A stored message without what only the server sets: as it was sent."""
    result = pb.Message()
    result.CopyFrom(stored)
    for field in ("seq", "commit_time", "provisional", "status"):
        result.ClearField(field)
    return result


def error(code, reason, call, request):
    """Makes a call that must fail so; returns its details by name and the ErrorInfo's metadata."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request)
    failure = raised.value
    assert failure.code() == code, f"{failure.code()}: {failure.details()}"
    packed = dict(failure.trailing_metadata() or ()).get("grpc-status-details-bin")
    assert packed, f"no details: {failure.details()}"
    status = status_pb2.Status.FromString(packed)
    assert (status.code, status.message) == (code.value[0], failure.details())
    details = {}
    for each in status.details:
        detail = DETAILS[each.type_url]()
        assert each.Unpack(detail)
        name = detail.DESCRIPTOR.name
        assert name not in details, f"two of {name}"
        details[name] = detail
    info = details["ErrorInfo"]
    assert (info.reason, info.domain) == (reason, "fusewire")
    return details, dict(info.metadata)


def kind(event):
    return event.WhichOneof("event")


def until(events, last):
    """The events up to the first of that kind."""
    found = []
    for event in events:
        found.append(event)
        if kind(event) == last:
            return found
    raise AssertionError(f"ended before {last}")
