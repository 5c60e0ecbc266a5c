"""What a client is told while Redis is unreachable, and what became of it when Redis is back."""

import re
import signal

import grpc
import pytest
from calls import connect, error, read, status
from fusewire.v1 import circuit_breakers_pb2 as breakers
from fusewire.v1 import common_pb2 as common
from fusewire.v1 import conversation_threads_pb2 as pb
from servers import Fusewire, Redis, poll

CODE = grpc.StatusCode
ENTRIES = 10


class Outage:
    """Two servers, a and b, on one Redis that can be lost and found again."""

    def __init__(self, folder):
        self.folder, self.started = folder, []
        self.redis = Redis.start(folder, durable=True)
        self.started.append(self.redis)

    def start(self, name, **settings):
        url = f"redis://127.0.0.1:{self.redis.port}"
        server = Fusewire(self.folder, name, REDIS_URL=url, **settings)
        self.started.insert(0, server)
        return connect(server)

    def lose(self):
        assert self.redis.end(signal.SIGKILL) == -signal.SIGKILL
        self.reach(common.SERVING_MODE_DEGRADED)

    def find(self):
        self.redis.start_again()
        self.reach(common.SERVING_MODE_SHARED)

    def reach(self, mode):
        for server in (self.a, self.b):
            poll(common.ServingMode.Name(mode), lambda: status(server).mode == mode)


@pytest.fixture
def outage(tmp_path):
    outage = Outage(tmp_path)
    try:
        outage.a = outage.start("a", FUSEWIRE__FALLBACK__JOURNAL_ENTRIES=str(ENTRIES))
        outage.b = outage.start("b")
        yield outage
    finally:
        for process in outage.started:
            process.end()


def text(message_id, words="hello"):
    return pb.Message(id=message_id, role=pb.ROLE_USER, parts=[pb.Part(text=words)])


def create(server, thread_id, owner="", messages=()):
    thread = pb.ConversationThread(id=thread_id, owner=owner)
    return server.threads.CreateThread(pb.CreateThreadRequest(thread=thread, messages=messages))


def append(server, thread_id, *messages, **fields):
    return server.threads.AppendMessages(
        pb.AppendMessagesRequest(thread_id=thread_id, messages=messages, **fields)
    )


def words(messages):
    return [(each.id, each.parts[0].text) for each in messages]


def refused(call, request):
    """It is UNAVAILABLE, and says why and when to ask again."""
    details, _ = error(CODE.UNAVAILABLE, "REDIS_UNREACHABLE", call, request)
    assert details["RetryInfo"].retry_delay.ToMilliseconds() > 0


def test_memory_answers_what_it_can_and_says_so(outage):
    create(outage.a, "held", messages=[text("m1")])
    known = outage.a.threads.GetThread(pb.GetThreadRequest(thread_id="held")).thread
    outage.lose()

    appended = append(outage.a, "held", text("m2"), text("m1"))
    assert appended.authority == common.AUTHORITY_LOCAL
    verdicts = [(each.id, each.seq, each.provisional, each.duplicate) for each in appended.messages]
    assert verdicts == [("m2", 0, True, False), ("m1", 1, False, True)]
    for call, request in (
        (outage.a.threads.GetContext, pb.GetContextRequest(thread_id="held")),
        (outage.a.threads.ListMessages, pb.ListMessagesRequest(thread_id="held")),
    ):
        answer = call(request)
        assert [(each.id, each.seq, each.provisional) for each in answer.messages] == [("m1", 1, False), ("m2", 0, True)]
        assert answer.authority == common.AUTHORITY_LOCAL
        # What Redis last said is as old as that.
        assert known.update_time.ToNanoseconds() <= answer.as_of.ToNanoseconds()
        assert answer.as_of.ToNanoseconds() <= status(outage.a).since.ToNanoseconds()
    journal = status(outage.a).journal
    assert (journal.entries, journal.HasField("oldest_time")) == (1, True)

    outage.find()
    appended = append(outage.a, "held", text("m2"))
    assert (appended.messages[0].seq, appended.messages[0].duplicate) == (2, True)
    assert appended.authority == common.AUTHORITY_SHARED
    assert not status(outage.a).journal.HasField("oldest_time")


def test_what_memory_cannot_know_is_unavailable(outage):
    """Never NOT_FOUND and never an empty page, for what this server has not seen or what needs Redis to decide."""
    etag = create(outage.a, "held", messages=[text("m1")]).thread.etag
    create(outage.b, "elsewhere", owner="bob")
    outage.lose()
    threads, circuits = outage.a.threads, outage.a.breakers
    for call, request in (
        (threads.GetThread, pb.GetThreadRequest(thread_id="elsewhere")),
        (threads.GetThread, pb.GetThreadRequest(thread_id="never")),
        (threads.ListMessages, pb.ListMessagesRequest(thread_id="elsewhere")),
        (threads.GetContext, pb.GetContextRequest(thread_id="elsewhere")),
        (threads.ListThreads, pb.ListThreadsRequest(owner="bob")),
        (threads.AppendMessages, pb.AppendMessagesRequest(thread_id="elsewhere", messages=[text("m1")])),
        (threads.AppendMessages, pb.AppendMessagesRequest(thread_id="held", messages=[text("m2")], etag=etag)),
        (threads.DeleteThread, pb.DeleteThreadRequest(thread_id="held")),
        (threads.TruncateThread, pb.TruncateThreadRequest(thread_id="held", keep_last=0)),
        (threads.ForkThread, pb.ForkThreadRequest(thread_id="held")),
        (circuits.TripBreaker, breakers.TripBreakerRequest(model_key="m")),
        (circuits.ResetBreaker, breakers.ResetBreakerRequest(model_key="m")),
    ):
        refused(call, request)


def test_who_requires_redis_gets_no_answer_from_memory(outage):
    create(outage.a, "held", messages=[text("m1")])
    outage.lose()
    threads, circuits = outage.a.threads, outage.a.breakers
    message = [text("m2")]
    for call, request in (
        (threads.GetThread, pb.GetThreadRequest(thread_id="held", require_shared=True)),
        (threads.ListMessages, pb.ListMessagesRequest(thread_id="held", require_shared=True)),
        (threads.GetContext, pb.GetContextRequest(thread_id="held", require_shared=True)),
        (threads.AppendMessages, pb.AppendMessagesRequest(thread_id="held", messages=message, require_shared=True)),
        (circuits.Acquire, breakers.AcquireRequest(model_key="m", require_shared=True)),
        (circuits.GetBreaker, breakers.GetBreakerRequest(model_key="m", require_shared=True)),
    ):
        refused(call, request)
    assert status(outage.a).journal.entries == 0, "nothing was accepted"


def test_a_full_journal_refuses_more_and_drops_nothing(outage):
    create(outage.a, "held")
    outage.lose()
    accepted = [text(f"m{n}") for n in range(ENTRIES)]
    append(outage.a, "held", *accepted)
    request = pb.AppendMessagesRequest(thread_id="held", messages=[text("more")])
    details, _ = error(CODE.RESOURCE_EXHAUSTED, "JOURNAL_FULL", outage.a.threads.AppendMessages, request)
    (violation,) = details["QuotaFailure"].violations
    assert str(ENTRIES) in violation.description, violation
    context = outage.a.threads.GetContext(pb.GetContextRequest(thread_id="held"))
    assert words(context.messages) == words(accepted), "reads go on"

    outage.find()
    assert append(outage.a, "held", text("more")).messages[0].seq == ENTRIES + 1
    assert words(read(outage.b, "held")) == words([*accepted, text("more")])


def test_what_cannot_be_merged_as_it_is_is_kept_and_listed(outage):
    """Another owner's thread and a message id used elsewhere get nothing; a deleted thread stays deleted."""
    create(outage.b, "owned", owner="bob", messages=[text("m1", "bob's")])
    for thread in ("reused", "deleted"):
        create(outage.a, thread, messages=[text("m1")])
    append(outage.b, "reused", text("m2", "b's"))
    outage.b.threads.DeleteThread(pb.DeleteThreadRequest(thread_id="deleted"))
    outage.lose()
    create(outage.a, "owned", owner="alice", messages=[text("m1", "alice's")])
    append(outage.a, "reused", text("m2", "a's"))
    append(outage.a, "deleted", text("m2"))
    outage.find()

    journal = status(outage.a).journal
    assert journal.entries == 0
    reasons = {each.thread_id: each.reason for each in journal.parked}
    assert set(reasons) == {"owned", "reused", "deleted"}, journal
    became = re.search(r"\bowned~[0-9A-Z]{26}\b", reasons["owned"]).group()
    assert words(read(outage.b, became)) == [("m1", "alice's")]
    assert outage.b.threads.GetThread(pb.GetThreadRequest(thread_id=became)).thread.owner == "alice"
    assert words(read(outage.b, "owned")) == [("m1", "bob's")]
    renamed = re.search(r"\bm2~[0-9A-Z]{26}\b", reasons["reused"]).group()
    assert words(read(outage.b, "reused")) == [("m1", "hello"), ("m2", "b's"), (renamed, "a's")]
    assert "deleted" in reasons["deleted"]
    for server in (outage.a, outage.b):
        error(CODE.NOT_FOUND, "THREAD_NOT_FOUND", server.threads.GetThread, pb.GetThreadRequest(thread_id="deleted"))
