"""What two servers on one Redis promise: nothing acknowledged is lost with one of them, and Redis shows what is kept."""

import signal
import threading
import time

import grpc
import pytest
import transcripts
from calls import append, read
from fusewire.v1 import conversation_threads_pb2 as pb
from google.protobuf import duration_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from servers import poll


def text(message_id):
    return pb.Message(id=message_id, role=pb.ROLE_USER, parts=[pb.Part(text="hello")])


@pytest.mark.parametrize("sig, status", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)], ids=["kill", "term"])
def test_ending_a_server_under_load_loses_nothing_acknowledged(shared, sig, status):
    """Every append that was answered is read through another server; the one that was not is retried there."""
    victim, thread = shared.start(f"victim-{sig}"), f"victim-{sig}"
    acknowledged, unanswered = [], []

    def work():
        while not unanswered:
            message = text(f"m{len(acknowledged)}")
            try:
                append(victim, thread, [message])
                acknowledged.append(message.id)
            except (grpc.RpcError, ValueError):
                unanswered.append(message)

    worker = threading.Thread(target=work)
    worker.start()
    poll("100 appends", lambda: unanswered or len(acknowledged) >= 100)
    victim.child.send_signal(sig)
    worker.join(30)
    assert not worker.is_alive()
    # A second signal would end it at once, so this only waits.
    assert victim.child.wait(20) == status

    append(shared.b, thread, unanswered)
    expected = [*acknowledged, unanswered[0].id]
    assert len(acknowledged) >= 100
    assert [each.id for each in read(shared.b, thread, 1000)] == expected


@pytest.mark.parametrize("path", transcripts.FILES, ids=lambda path: path.stem)
def test_all_keys_of_a_thread_expire_together(shared, path):
    """Two hours after the last append, to the millisecond the same; redis-cli shows the thread's fields."""
    thread, messages = f"keys-{path.stem}", transcripts.messages(path)
    append(shared.a, thread, messages)
    key = f"conversation_thread:{{{thread}}}"
    keys = shared.redis.cli("--scan", "--pattern", f"{key}*")
    assert {key, f"{key}:messages", f"{key}:ids"} <= set(keys)
    expiries = {each: int(shared.redis.cli("PEXPIRETIME", each)[0]) for each in keys}
    assert len(set(expiries.values())) == 1, expiries
    assert 7190 <= int(shared.redis.cli("TTL", key)[0]) <= 7200

    flat = shared.redis.cli("HGETALL", key)
    fields = dict(zip(flat[::2], flat[1::2]))
    assert (fields["first_seq"], fields["last_seq"]) == ("1", str(len(messages)))
    assert shared.redis.cli("LLEN", f"{key}:messages") == [str(len(messages))]


def test_a_read_renews_and_a_peek_does_not(shared):
    """A thread with a ttl of its own: peeking leaves the expiry, reading and touching move it."""
    shared.a.threads.CreateThread(
        pb.CreateThreadRequest(
            thread=pb.ConversationThread(id="renewed", ttl=duration_pb2.Duration(seconds=60)), messages=[text("m1")]
        )
    )
    key = "conversation_thread:{renewed}"

    def expiry():
        return int(shared.redis.cli("PEXPIRETIME", key)[0])

    created = expiry()
    poll("the clock moves on", lambda: time.time() * 1000 > created - 60_000 + 50)
    for call, request in (
        (shared.b.threads.GetThread, pb.GetThreadRequest(thread_id="renewed", peek=True)),
        (shared.b.threads.ListMessages, pb.ListMessagesRequest(thread_id="renewed", peek=True)),
        (shared.b.threads.GetContext, pb.GetContextRequest(thread_id="renewed", peek=True)),
    ):
        call(request)
        assert expiry() == created
    shared.b.threads.GetThread(pb.GetThreadRequest(thread_id="renewed"))
    assert created < expiry() < created + 60_000
    shared.b.threads.TouchThread(
        pb.TouchThreadRequest(thread_id="renewed", ttl=duration_pb2.Duration(seconds=600))
    )
    assert expiry() > created + 500_000


def test_a_deleted_thread_leaves_its_tombstone_only(shared):
    """A day long; then nothing of it is left."""
    append(shared.a, "gone", [text("m1")])
    shared.b.threads.DeleteThread(pb.DeleteThreadRequest(thread_id="gone"))
    key = "conversation_thread:{gone}"
    assert shared.redis.cli("--scan", "--pattern", f"{key}*") == [f"{key}:tombstone"]
    assert 86_390 <= int(shared.redis.cli("TTL", f"{key}:tombstone")[0]) <= 86_400


def test_health_and_reflection_name_the_services(servers):
    """Health overall, of each service and of Redis; reflection v1alpha, for older clients."""
    health = health_pb2_grpc.HealthStub(servers.a.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    names = ["", "fusewire.v1.ConversationThreads"] + (["redis"] if servers.name == "shared" else [])
    for name in names:
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == serving, name
    reflection = ProtoReflectionDescriptorDatabase(servers.a.channel)
    assert {"fusewire.v1.ConversationThreads", "grpc.health.v1.Health"} <= set(reflection.get_services())
    described = reflection.FindFileContainingSymbol("fusewire.v1.ConversationThreads")
    assert described.name == "fusewire/v1/conversation_threads.proto"
