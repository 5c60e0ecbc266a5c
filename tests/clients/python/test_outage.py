"""A chat and a breaker loop go on through `kill -9` of redis-server and its return; no call is repeated by hand."""

import signal
import threading
from types import SimpleNamespace

import pytest
from calls import SERVICE_CONFIG, connect, kind, read, status
from fusewire.v1 import circuit_breakers_pb2 as breakers
from fusewire.v1 import common_pb2 as common
from fusewire.v1 import conversation_threads_pb2 as pb
from servers import Fusewire, Redis, poll

pytestmark = pytest.mark.usefixtures("in_time")

THREAD, KEY = "chat", "anthropic:claude-sonnet-4-5"
# Seconds that a call may take: far less than a caller would have to wait for Redis itself.
TIMEOUT = 5
# What must have been done in each state of Redis before the test goes on to the next.
ENOUGH = 20


@pytest.fixture
def served(tmp_path):
    """A server, its Redis, which keeps what it acknowledged, and the retries shipped for clients."""
    redis = Redis.start(tmp_path, durable=True)
    started = [redis]
    try:
        server = Fusewire(tmp_path, REDIS_URL=f"redis://127.0.0.1:{redis.port}")
        started.insert(0, server)
        connect(server, ("grpc.service_config", SERVICE_CONFIG.read_text()))
        yield SimpleNamespace(server=server, redis=redis)
    finally:
        for process in started:
            process.end()


class Repeated:
    """Does the same again and again in a thread of its own. The first failure ends it and is raised at the end."""

    def __init__(self, once):
        self.once, self.failure, self.ending = once, None, False
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        try:
            while not self.ending:
                self.once()
        except BaseException as failure:
            self.failure = failure

    def wait(self, what, condition):
        """Waits for the condition; a failure ends the wait."""
        poll(what, lambda: self.failure or condition(), 40)
        if self.failure:
            raise self.failure

    def end(self):
        self.ending = True
        self.thread.join(20)
        if self.failure:
            raise self.failure


class Chat:
    """Turns of a chat, with ids chosen here. `acknowledged` is what must be in the thread afterwards."""

    def __init__(self, server):
        self.threads = server.threads
        self.acknowledged, self.authorities, self.turns = [], [], 0
        self.threads.CreateThread(
            pb.CreateThreadRequest(thread=pb.ConversationThread(id=THREAD), request_id="chat-1"), timeout=TIMEOUT
        )

    def turn(self):
        """A question, what the model would see, and its answer."""
        self.turns += 1
        answers = [self.say(f"user-{self.turns}", pb.ROLE_USER)]
        context = self.threads.GetContext(pb.GetContextRequest(thread_id=THREAD, max_messages=20), timeout=TIMEOUT)
        assert self.texts(context.messages) == self.acknowledged[-20:], "what was acknowledged is what the model sees"
        answers += [context, self.say(f"assistant-{self.turns}", pb.ROLE_ASSISTANT)]
        self.authorities += [each.authority for each in answers]

    def say(self, message_id, role):
        message = pb.Message(id=message_id, role=role, parts=[pb.Part(text=f"this is {message_id}")])
        answer = self.threads.AppendMessages(
            pb.AppendMessagesRequest(thread_id=THREAD, messages=[message]), timeout=TIMEOUT
        )
        (appended,) = answer.messages
        assert appended.id == message_id
        # One that only memory holds has no seq yet, and says so. A duplicate is one that Redis took when it was killed.
        is_provisional = answer.authority == common.AUTHORITY_LOCAL and not appended.duplicate
        assert (appended.provisional, appended.seq == 0) == (is_provisional, is_provisional), answer
        self.acknowledged.append((message_id, f"this is {message_id}"))
        return answer

    @staticmethod
    def texts(messages):
        return [(each.id, each.parts[0].text) for each in messages]


class Watched:
    """One stream through it all, and the thread as its reader knows it."""

    def __init__(self, server):
        self.server = server
        # By seq, what every instance shares; what only memory held is not the thread yet.
        self.known, self.provisional, self.modes, self.resyncs = {}, [], [], 0
        self.stream = server.threads.WatchThread(pb.WatchThreadRequest(thread_id=THREAD))
        self.reading = Repeated(self.event)

    def event(self):
        event = next(self.stream)
        match kind(event):
            case "appended":
                for each in event.appended.messages:
                    if each.provisional:
                        self.provisional.append(each.id)
                    else:
                        self.known[each.seq] = each.id
            case "resync":
                self.resyncs += 1
                self.known = {each.seq: each.id for each in read(self.server, THREAD, 1000, require_shared=True)}
            case "serving_mode_changed":
                self.modes.append(event.serving_mode_changed.mode)
            case other:
                assert other == "synced", event

    def ids(self):
        return [self.known[seq] for seq in sorted(self.known)]


def through_an_outage(served, working, authorities):
    """Kills Redis and starts it again while the work goes on; returns the modes that the server told of itself."""
    modes = []

    def mode():
        found = status(served.server).mode
        if modes[-1:] != [found]:
            modes.append(found)
        return found

    def going_on(authority):
        begun = len(authorities)
        working.wait(
            f"{ENOUGH} answers {common.Authority.Name(authority)}",
            lambda: mode() and authorities[begun:].count(authority) >= ENOUGH,
        )

    going_on(common.AUTHORITY_SHARED)
    assert served.redis.end(signal.SIGKILL) == -signal.SIGKILL
    working.wait("DEGRADED", lambda: mode() == common.SERVING_MODE_DEGRADED)
    going_on(common.AUTHORITY_LOCAL)
    served.redis.start_again()
    working.wait("SHARED", lambda: mode() == common.SERVING_MODE_SHARED)
    going_on(common.AUTHORITY_SHARED)
    return modes


def test_a_chat_goes_on_and_the_thread_is_exactly_what_was_acknowledged(served):
    chat = Chat(served.server)
    watched = Watched(served.server)
    chatting = Repeated(chat.turn)
    modes = through_an_outage(served, chatting, chat.authorities)
    chatting.end()

    first, *_, last = modes
    assert (first, last) == (common.SERVING_MODE_SHARED, common.SERVING_MODE_SHARED)
    assert common.SERVING_MODE_DEGRADED in modes
    journal = status(served.server).journal
    assert (journal.entries, list(journal.parked)) == (0, []), "everything was merged"

    stored = read(served.server, THREAD, 1000, require_shared=True)
    assert Chat.texts(stored) == chat.acknowledged, "each once, and in order"
    assert [each.seq for each in stored] == list(range(1, len(stored) + 1))
    assert not any(each.provisional for each in stored)

    expected = [each.id for each in stored]
    watched.reading.wait("the watch knows the thread", lambda: watched.ids() == expected)
    assert watched.modes[0] == common.SERVING_MODE_DEGRADED
    assert watched.modes[-1] == common.SERVING_MODE_SHARED
    assert watched.resyncs and watched.provisional
    watched.stream.cancel()


def test_a_breaker_loop_goes_on(served):
    """Every call is admitted and reported, whoever answers; in the end the breaker is Redis's again."""
    authorities = []

    def loop():
        acquired = served.server.breakers.Acquire(breakers.AcquireRequest(model_key=KEY), timeout=TIMEOUT)
        assert acquired.admitted, acquired
        reported = served.server.breakers.Report(
            breakers.ReportRequest(permit=acquired.permit, http_status=200), timeout=TIMEOUT
        )
        # A permit of the one side is stale on the other.
        applied = breakers.DISPOSITION_APPLIED
        assert reported.disposition == applied or acquired.permit.epoch != reported.breaker.epoch, reported
        authorities.extend((acquired.authority, reported.authority))

    looping = Repeated(loop)
    modes = through_an_outage(served, looping, authorities)
    looping.end()
    assert common.SERVING_MODE_DEGRADED in modes
    answer = served.server.breakers.GetBreaker(breakers.GetBreakerRequest(model_key=KEY, require_shared=True))
    assert (answer.authority, answer.breaker.state) == (common.AUTHORITY_SHARED, breakers.STATE_CLOSED)
