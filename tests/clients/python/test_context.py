"""GetContext gives the newest messages that fit, in whole groups, with the instructions."""

import pytest
import transcripts
from calls import append, read
from fusewire.v1 import conversation_threads_pb2 as pb


def expected(stored, max_messages, max_tokens):
    """The seqs that the rules choose, worked out here from all messages: instructions, then newest groups first."""
    instructions = [each for each in stored if each.role in (pb.ROLE_SYSTEM, pb.ROLE_DEVELOPER)]
    *older, newest = transcripts.groups(stored)
    chosen = instructions + newest

    def fits(messages):
        tokens = sum(each.token_count for each in messages)
        return len(messages) <= (max_messages or len(messages)) and tokens <= (max_tokens or tokens)

    for group in reversed(older):
        if not fits(chosen + group):
            break
        chosen += group
    return sorted(each.seq for each in chosen)


@pytest.mark.parametrize("path", transcripts.FILES, ids=lambda path: path.stem)
def test_a_context_is_the_newest_that_fits(servers, path):
    """No budget, none to speak of, and every one between: exactly the messages that the rules choose."""
    thread, messages = f"context-{path.stem}", transcripts.messages(path, tokens=True)
    append(servers.a, thread, messages)
    stored = read(servers.b, thread, 100)
    total = sum(each.token_count for each in stored)
    budgets = [(0, 0), (0, 1), (0, total), (0, total - 1), (1, 0), (len(stored), 0), (6, total // 2)]
    budgets += [(0, max(1, total * part // 10)) for part in range(1, 10)]
    budgets += [(count, 0) for count in range(2, len(stored))]
    for max_messages, max_tokens in budgets:
        answer = servers.b.threads.GetContext(
            pb.GetContextRequest(thread_id=thread, max_messages=max_messages, max_tokens=max_tokens)
        )
        budget = f"max_messages {max_messages}, max_tokens {max_tokens} of {total}"
        assert [each.seq for each in answer.messages] == expected(stored, max_messages, max_tokens), budget
        assert [each for each in stored if each in answer.messages] == list(answer.messages), budget
        assert answer.token_count == sum(each.token_count for each in answer.messages), budget
        assert answer.omitted_count + len(answer.messages) == answer.thread.message_count == len(stored), budget
        assert answer.authority == servers.authority


@pytest.mark.parametrize("path", transcripts.FILES, ids=lambda path: path.stem)
def test_a_context_never_has_a_result_without_its_call(servers, path):
    """Wherever a thread ends, also between a call and its results, with tokens that the server estimates."""
    messages = transcripts.messages(path)
    for end in range(1, len(messages) + 1):
        thread = f"window-{path.stem}-{end}"
        append(servers.a, thread, messages[:end], size=100)
        instructions = [
            each.id for each in messages[:end] if each.role in (pb.ROLE_SYSTEM, pb.ROLE_DEVELOPER)
        ]
        for max_tokens in (1, 300, 1500, 6000):
            answer = servers.b.threads.GetContext(pb.GetContextRequest(thread_id=thread, max_tokens=max_tokens))
            ids = [each.id for each in answer.messages]
            assert [each for each in ids if each in instructions] == instructions
            present = [[each.id in ids for each in group] for group in transcripts.groups(messages[:end])]
            assert all(len(set(group)) == 1 for group in present), "a group is in or out as a whole"
            whole = [group[0] for group in present]
            assert whole == sorted(whole), "what is left out is older than what is not"
            assert not whole or whole[-1], "the newest group is always there"
            assert answer.token_count <= max_tokens or sum(whole) <= 1, "only the newest group goes over"
            assert answer.omitted_count + len(ids) == end
