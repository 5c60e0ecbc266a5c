"""Errors say what, why and where, as google.rpc details that a client can decode."""

import grpc
import pytest
from calls import append, error, read
from fusewire.v1 import conversation_threads_pb2 as pb
from google.protobuf import duration_pb2, field_mask_pb2

CODE = grpc.StatusCode


def text(message_id, words="hello"):
    return pb.Message(id=message_id, role=pb.ROLE_USER, parts=[pb.Part(text=words)])


BAD = [
    ("GetThread", pb.GetThreadRequest(), ["thread_id"]),
    ("GetThread", pb.GetThreadRequest(thread_id="no spaces"), ["thread_id"]),
    ("GetThread", pb.GetThreadRequest(thread_id="{x}"), ["thread_id"]),
    ("GetThread", pb.GetThreadRequest(thread_id="x" * 129), ["thread_id"]),
    ("GetThread", pb.GetThreadRequest(thread_id="nul\0"), ["thread_id"]),
    ("ListThreads", pb.ListThreadsRequest(owner="ö", page_size=-1), ["owner", "page_size"]),
    ("ListMessages", pb.ListMessagesRequest(thread_id="t", page_size=-1), ["page_size"]),
    (
        "CreateThread",
        pb.CreateThreadRequest(thread=pb.ConversationThread(id="a b", ttl=duration_pb2.Duration())),
        ["thread.id", "thread.ttl"],
    ),
    (
        "AppendMessages",
        pb.AppendMessagesRequest(
            thread_id="bad-fields",
            create_if_missing=True,
            messages=[text("good"), pb.Message(id="é", role=pb.ROLE_USER), pb.Message(id="c", parts=[pb.Part()])],
        ),
        ["messages[1].id", "messages[2].role", "messages[2].parts[0]"],
    ),
    (
        "UpdateThread",
        pb.UpdateThreadRequest(
            thread=pb.ConversationThread(id="t"), update_mask=field_mask_pb2.FieldMask(paths=["owner"])
        ),
        ["update_mask"],
    ),
]


@pytest.mark.parametrize("rpc, asked, fields", BAD, ids=lambda value: value if isinstance(value, str) else None)
def test_bad_fields_are_named(servers, rpc, asked, fields):
    """Every violated field with its path, each with a reason in words."""
    details, _ = error(CODE.INVALID_ARGUMENT, "INVALID_FIELDS", getattr(servers.a.threads, rpc), asked)
    violations = details["BadRequest"].field_violations
    assert [each.field.partition(".paths")[0] for each in violations] == fields
    assert all(each.description for each in violations)


def test_an_invalid_batch_writes_nothing(servers):
    """Not even the valid message before the bad one."""
    request = pb.AppendMessagesRequest(
        thread_id="nothing-written", create_if_missing=True, messages=[text("good"), pb.Message(id="bad")]
    )
    error(CODE.INVALID_ARGUMENT, "INVALID_FIELDS", servers.a.threads.AppendMessages, request)
    details, _ = error(
        CODE.NOT_FOUND, "THREAD_NOT_FOUND", servers.b.threads.GetThread, pb.GetThreadRequest(thread_id="nothing-written")
    )
    assert details["ResourceInfo"].resource_name == "nothing-written"


def test_a_foreign_page_token_is_refused(servers):
    """Garbage, and a token of a request with other fields."""
    append(servers.a, "tokens", [text(f"m{n}") for n in range(3)])
    page = servers.a.threads.ListMessages(pb.ListMessagesRequest(thread_id="tokens", page_size=1))
    for request in (
        pb.ListMessagesRequest(thread_id="tokens", page_token="garbage"),
        pb.ListMessagesRequest(thread_id="tokens", page_token=page.next_page_token, descending=True),
    ):
        error(CODE.INVALID_ARGUMENT, "TOKEN_MISMATCH", servers.b.threads.ListMessages, request)


def test_an_id_is_used_once(servers):
    """A thread's id, and a message's id with other content: the batch is not written."""
    append(servers.a, "once", [text("m1")])
    create = pb.CreateThreadRequest(thread=pb.ConversationThread(id="once"))
    error(CODE.ALREADY_EXISTS, "THREAD_EXISTS", servers.b.threads.CreateThread, create)
    reuse = pb.AppendMessagesRequest(thread_id="once", messages=[text("m2"), text("m1", "other words")])
    _, metadata = error(CODE.ALREADY_EXISTS, "MESSAGE_ID_REUSED", servers.b.threads.AppendMessages, reuse)
    assert metadata["id"] == "m1"
    assert [each.id for each in read(servers.a, "once")] == ["m1"]


def test_a_seq_beyond_the_thread_is_out_of_range(servers):
    append(servers.a, "short", [text("m1"), text("m2")])
    for call, request in (
        (servers.b.threads.TruncateThread, pb.TruncateThreadRequest(thread_id="short", after_seq=3)),
        (servers.b.threads.ForkThread, pb.ForkThreadRequest(thread_id="short", at_seq=3, new_thread_id="longer")),
    ):
        _, metadata = error(CODE.OUT_OF_RANGE, "SEQ_OUT_OF_RANGE", call, request)
        assert metadata["last_seq"] == "2"


def test_a_deleted_thread_is_not_appended_to(servers):
    """Deleted is told from expired; only CreateThread begins anew, under an etag that the old one never matches."""
    _, before = append(servers.a, "deleted", [text("m1")])
    servers.b.threads.DeleteThread(pb.DeleteThreadRequest(thread_id="deleted"))
    request = pb.AppendMessagesRequest(thread_id="deleted", messages=[text("m2")], create_if_missing=True)
    error(CODE.FAILED_PRECONDITION, "THREAD_DELETED", servers.a.threads.AppendMessages, request)
    servers.b.threads.CreateThread(pb.CreateThreadRequest(thread=pb.ConversationThread(id="deleted")))
    request.etag = before.thread.etag
    error(CODE.ABORTED, "ETAG_MISMATCH", servers.a.threads.AppendMessages, request)


def test_a_thread_has_one_owner(servers):
    append(servers.a, "owned", [text("m1")], owner="alice")
    request = pb.AppendMessagesRequest(thread_id="owned", messages=[text("m2")], owner="bob")
    error(CODE.FAILED_PRECONDITION, "OWNER_MISMATCH", servers.b.threads.AppendMessages, request)
    listed = servers.b.threads.ListThreads(pb.ListThreadsRequest(owner="alice"))
    assert [each.id for each in listed.threads] == ["owned"]


def test_an_etag_makes_an_append_a_compare_and_set(servers):
    """A stale etag is ABORTED with the current one; the writer's own retry with the same ids succeeds."""
    _, first = append(servers.a, "versions", [text("m1")])
    winner = pb.AppendMessagesRequest(thread_id="versions", messages=[text("m2")], etag=first.thread.etag)
    won = servers.a.threads.AppendMessages(winner)
    assert (won.previous_last_seq, won.messages[0].seq, won.messages[0].duplicate) == (1, 2, False)

    loser = pb.AppendMessagesRequest(thread_id="versions", messages=[text("m3")], etag=first.thread.etag)
    _, metadata = error(CODE.ABORTED, "ETAG_MISMATCH", servers.b.threads.AppendMessages, loser)
    assert metadata["etag"] == won.thread.etag
    loser.etag = '"never-issued"'
    error(CODE.ABORTED, "ETAG_MISMATCH", servers.b.threads.AppendMessages, loser)

    retried = servers.b.threads.AppendMessages(winner)
    assert (retried.messages[0].seq, retried.messages[0].duplicate) == (2, True)
    assert retried.thread.etag == won.thread.etag
    loser.etag = servers.b.threads.GetContext(pb.GetContextRequest(thread_id="versions")).thread.etag
    assert servers.b.threads.AppendMessages(loser).messages[0].seq == 3
