"""The watch of watch.py on a thread: it goes on at another server where it was, and ends when the thread does."""

import os
import re
import signal
import sys
import threading
from datetime import timedelta

import grpc
import pytest
import watch
from calls import ENDINGS, append, kind, until
from fusewire.v1 import conversation_threads_pb2 as pb
from generate import GENERATED
from servers import Process, poll

pytestmark = pytest.mark.usefixtures("in_time")


def text(message_id, role=pb.ROLE_USER):
    return pb.Message(id=message_id, role=role, parts=[pb.Part(text="hello")])


def seqs(events):
    """Of the messages that were appended."""
    return [each.seq for event in events if kind(event) == "appended" for each in event.appended.messages]


def delete(server, thread_id):
    server.threads.DeleteThread(pb.DeleteThreadRequest(thread_id=thread_id))


def test_what_happens_through_another_server_is_told_until_the_thread_is_deleted(servers):
    thread = "watched"
    append(servers.b, thread, [text(f"m{n}") for n in range(1, 5)])
    events = watch.watch_thread([servers.a.address], thread, after_seq=1)
    assert seqs(until(events, "synced")) == [2, 3, 4]
    append(servers.b, thread, [text("m5", pb.ROLE_ASSISTANT)])
    told = until(events, "appended")
    assert seqs(told) == [5]
    assert watch.line_of(told[-1]).removesuffix(" (LOCAL)").endswith(" appended 5:ASSISTANT")
    renamed = pb.ConversationThread(id=thread, title="Weather")
    servers.b.threads.UpdateThread(pb.UpdateThreadRequest(thread=renamed, update_mask={"paths": ["title"]}))
    assert until(events, "updated")[-1].updated.thread.title == "Weather"
    servers.b.threads.TruncateThread(pb.TruncateThreadRequest(thread_id=thread, after_seq=3))
    event = until(events, "truncated")[-1]
    assert (event.truncated.first_seq, event.truncated.last_seq) == (1, 3)
    delete(servers.b, thread)
    assert list(map(kind, events)) == ["deleted"]


@ENDINGS
def test_a_watch_of_a_thread_goes_on_at_another_server_in_the_midst_of_appends(shared, victim, sig, status):
    """Two hundred messages, each once and in order; the server ends at about the hundredth."""
    thread, count = f"thread-midst-{sig.name}", 200
    append(shared.a, thread, [text("first")])

    def work():
        for n in range(2, count + 1):
            append(shared.a, thread, [text(f"m{n}")])

    events = watch.watch_thread([victim.address, shared.b.address], thread)
    told = until(events, "synced")
    working = threading.Thread(target=work, daemon=True)
    working.start()
    while (found := seqs(told))[-1:] != [count] or list(map(kind, told)).count("synced") < 2:
        told.append(next(events))
        if len(found) < 100 <= len(seqs(told)):
            victim.child.send_signal(sig)
    working.join(20)
    assert [watch.line_of(event) for event in told if kind(event) not in ("appended", "synced")] == []
    assert seqs(told) == list(range(1, count + 1))
    assert victim.child.wait(20) == status
    # Nobody serves the watch any more but the second, which tells the end.
    delete(shared.a, thread)
    assert list(map(kind, events)) == ["deleted"]


def test_a_thread_deleted_meanwhile_is_told_as_deleted(shared, victim):
    append(shared.a, "thread-gone", [text("m1")])
    events = watch.watch_thread([victim.address, shared.b.address], "thread-gone")
    until(events, "synced")
    victim.end(signal.SIGKILL)
    delete(shared.a, "thread-gone")
    assert list(map(kind, events)) == ["deleted"]


def test_another_thread_under_the_id_is_told_as_a_resync(shared, victim):
    append(shared.a, "thread-anew", [text("m1"), text("m2")])
    events = watch.watch_thread([victim.address, shared.b.address], "thread-anew")
    until(events, "synced")
    victim.end(signal.SIGKILL)
    delete(shared.a, "thread-anew")
    shared.a.threads.CreateThread(
        pb.CreateThreadRequest(thread=pb.ConversationThread(id="thread-anew"), messages=[text("n1")])
    )
    event = until(events, "resync")[-1]
    assert event.resync.thread.last_seq == 1
    assert re.search(" resync: .", watch.line_of(event))
    append(shared.a, "thread-anew", [text("n2")])
    assert seqs(until(events, "appended"))[-1:] == [2]


def test_an_expired_thread_ends_the_watch(servers):
    servers.b.threads.CreateThread(
        pb.CreateThreadRequest(thread=pb.ConversationThread(id="thread-short", ttl=timedelta(seconds=1)))
    )
    events = watch.watch_thread([servers.a.address], "thread-short")
    assert list(map(kind, events))[-1] == "expired"


def test_a_thread_that_never_was_is_an_error(servers):
    with pytest.raises(grpc.RpcError) as raised:
        next(watch.watch_thread([servers.a.address], "thread-never"))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


def test_the_program_prints_a_thread_until_its_end(shared, tmp_path):
    thread = "thread-shown"
    append(shared.a, thread, [text("m1"), text("m2", pb.ROLE_ASSISTANT)])
    env = {**os.environ, "PYTHONPATH": str(GENERATED), "PYTHONDONTWRITEBYTECODE": "1"}
    child = Process(tmp_path, "watch", [sys.executable, watch.__file__, shared.a.address, "--thread", thread], env)
    try:
        poll("the program watches", lambda: "synced" in child.output() or not child.running())
        append(shared.b, thread, [text("m3")])
        poll("an append", lambda: "appended 3" in child.output() or not child.running())
        delete(shared.b, thread)
        assert child.child.wait(20) == 0
        lines = [line.partition(" ")[2] for line in child.output().splitlines()]
        assert lines == ["appended 1:USER 2:ASSISTANT", "synced", "appended 3:USER", "deleted"]
    finally:
        child.end()
