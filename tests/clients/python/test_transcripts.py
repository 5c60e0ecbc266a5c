"""Transcripts go in through one server and come out of the other unchanged, whatever is done to their threads."""

import multiprocessing
from types import SimpleNamespace

import grpc
import pytest
import transcripts
from calls import append, connect, read, sent
from fusewire.v1 import conversation_threads_pb2 as pb

TRANSCRIPT = pytest.mark.parametrize("path", transcripts.FILES, ids=lambda path: path.stem)


@TRANSCRIPT
def test_a_transcript_comes_back_byte_for_byte(servers, path):
    """Both directions, pages of every size, through the other server: the file's lines, and equal parts."""
    thread, messages = f"back-{path.stem}", transcripts.messages(path)
    appended, answer = append(servers.a, thread, messages)
    assert [each.seq for each in appended] == list(range(1, len(messages) + 1))
    assert answer.authority == servers.authority
    assert answer.thread.message_count == answer.thread.last_seq == len(messages)

    for page_size in (1, 5, 1000):
        found = read(servers.b, thread, page_size)
        assert [transcripts.line(each) for each in found] == transcripts.lines(path)
        assert [sent(each) for each in found] == messages
        assert [each.seq for each in found] == list(range(1, len(messages) + 1))
        assert all(each.status == pb.MESSAGE_STATUS_COMPLETED and not each.provisional for each in found)
    assert read(servers.b, thread, 4, descending=True) == found[::-1]
    assert read(servers.b, thread, 4, after_seq=3, before_seq=9) == found[3:8]


@TRANSCRIPT
def test_a_repeated_append_writes_nothing(servers, path):
    """Every message is a duplicate with its old seq, in other batches and through the other server."""
    thread, messages = f"repeat-{path.stem}", transcripts.messages(path)
    first, before = append(servers.a, thread, messages)
    again, after = append(servers.b, thread, messages, size=4)
    assert not any(each.duplicate for each in first)
    assert all(each.duplicate for each in again)
    assert [(each.id, each.seq) for each in again] == [(each.id, each.seq) for each in first]
    assert (after.thread.revision, after.thread.etag) == (before.thread.revision, before.thread.etag)
    assert after.thread.message_count == len(messages)


def write(address, path, thread, prefix, size, barrier, results):
    """One writer, in a process of its own: waits for the other, then appends."""
    server = connect(SimpleNamespace(address=address))
    grpc.channel_ready_future(server.channel).result(20)
    barrier.wait(20)
    appended, _ = append(server, thread, transcripts.messages(path, prefix), size)
    results.put([(each.id, each.seq, each.duplicate) for each in appended])


def two_writers(servers, path, thread, prefixes):
    """Two processes append the transcript at once, one to each server; returns what each was told."""
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(2), spawn.Queue()
    writers = [
        spawn.Process(target=write, args=(server.address, path, thread, prefix, size, barrier, results))
        for server, prefix, size in zip((servers.a, servers.b), prefixes, (1, 3))
    ]
    for writer in writers:
        writer.start()
    told = [results.get(timeout=60) for _ in writers]
    for writer in writers:
        writer.join(20)
        assert writer.exitcode == 0
    return told


def test_two_processes_with_the_same_messages_write_each_once(servers):
    """Both are told the same seq of every message, one of them that it was there, and the transcript is in order."""
    path = transcripts.FILES[0]
    told = two_writers(servers, path, "same-ids", ("", ""))
    assert [each[:2] for each in told[0]] == [each[:2] for each in told[1]]
    assert all(one[2] != other[2] for one, other in zip(*told))
    assert [transcripts.line(each) for each in read(servers.b, "same-ids")] == transcripts.lines(path)


def test_two_processes_with_own_messages_lose_none(servers):
    """No hole, nothing twice, and each writer's messages in its own order."""
    path = transcripts.FILES[0]
    told = two_writers(servers, path, "own-ids", ("one-", "two-"))
    count = len(transcripts.lines(path))
    assert sorted(seq for writer in told for _, seq, _ in writer) == list(range(1, 2 * count + 1))
    found = read(servers.a, "own-ids", 7)
    assert len(found) == 2 * count
    for prefix in ("one-", "two-"):
        own = [each for each in found if each.id.startswith(prefix)]
        assert [transcripts.line(each) for each in own] == transcripts.lines(path)


@TRANSCRIPT
def test_a_fork_is_independent_of_its_source(servers, path):
    """The copy holds the first messages, also of a tool group cut in two, and outlives the source."""
    thread, copy, messages = f"source-{path.stem}", f"copy-{path.stem}", transcripts.messages(path)
    append(servers.a, thread, messages)
    at = len(messages) // 2
    answer = servers.b.threads.ForkThread(pb.ForkThreadRequest(thread_id=thread, at_seq=at, new_thread_id=copy))
    assert (answer.thread.id, answer.thread.message_count, answer.thread.last_seq) == (copy, at, at)
    assert (answer.thread.parent.thread_id, answer.thread.parent.seq) == (thread, at)

    more, _ = append(servers.b, copy, [pb.Message(id="more", role=pb.ROLE_USER, parts=[pb.Part(text="more")])])
    assert [each.seq for each in more] == [at + 1]
    assert len(read(servers.a, thread)) == len(messages)

    servers.b.threads.DeleteThread(pb.DeleteThreadRequest(thread_id=thread))
    found = read(servers.a, copy)
    assert [sent(each) for each in found[:at]] == messages[:at]
    assert [each.id for each in found[at:]] == ["more"]


@TRANSCRIPT
def test_a_truncated_thread_goes_on_without_reusing_a_seq(servers, path):
    """The tail is gone, its ids stay used, and what comes next has seqs that were never given."""
    thread, messages = f"cut-{path.stem}", transcripts.messages(path)
    append(servers.a, thread, messages)
    kept, count = len(messages) - 4, len(messages)
    answer = servers.b.threads.TruncateThread(pb.TruncateThreadRequest(thread_id=thread, after_seq=kept))
    assert (answer.thread.message_count, answer.thread.last_seq) == (kept, count)
    assert [sent(each) for each in read(servers.a, thread)] == messages[:kept]

    late, _ = append(servers.a, thread, messages[-1:])
    assert [(each.duplicate, each.seq) for each in late] == [(True, count)]
    again = transcripts.messages(path, "again-")[kept:]
    appended, _ = append(servers.b, thread, again)
    assert [each.seq for each in appended] == list(range(count + 1, count + 5))
    found = read(servers.a, thread, 3)
    assert [each.seq for each in found] == [*range(1, kept + 1), *range(count + 1, count + 5)]
    assert [transcripts.line(each) for each in found] == transcripts.lines(path)

    answer = servers.a.threads.TruncateThread(pb.TruncateThreadRequest(thread_id=thread, keep_last=3))
    assert (answer.thread.message_count, answer.thread.last_seq) == (3, count + 4)
    assert read(servers.b, thread) == found[-3:]


def test_awkward_strings_come_back(servers):
    """No byte of a string is changed: NUL, broken and odd JSON, 1 MiB, signatures, empty everything."""
    thread = "awkward"
    messages = [
        pb.Message(id="empty", role=pb.ROLE_ASSISTANT),
        pb.Message(id="nul", role=pb.ROLE_USER, parts=[pb.Part(text="a\0b\r\n\u2028\U0010ffff")]),
        pb.Message(id="large", role=pb.ROLE_TOOL, parts=[pb.Part(text="é" * 524_288)]),
        pb.Message(
            id="call",
            role=pb.ROLE_ASSISTANT,
            parts=[
                pb.Part(reasoning=pb.Reasoning(text=""), signature="RXJ0/+=="),
                pb.Part(
                    tool_call=pb.ToolCall(name="f", arguments_json='{"n":9007199254740993,"a":[],"a":{},'),
                    extra={"openai": ' { "b":1, "a" : [] }'},
                ),
                pb.Part(opaque=pb.Opaque(mime_type="application/x-any", data=bytes(range(256)))),
            ],
        ),
    ]
    append(servers.a, thread, messages, size=2)
    assert [sent(each) for each in read(servers.b, thread, 2)] == messages
