"""A live watch that goes on where it was when a connection or a server is lost. An example to copy.

As a program it prints what happens, a line each, to the breakers whose keys begin so, or to one thread:

    watch.py localhost:50051,localhost:50052 openai:
    watch.py localhost:50051 --thread tour
"""

import argparse
import datetime
import itertools
import logging
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import grpc
from fusewire.v1 import circuit_breakers_pb2 as breakers
from fusewire.v1 import circuit_breakers_pb2_grpc as breakers_grpc
from fusewire.v1 import common_pb2 as common
from fusewire.v1 import conversation_threads_pb2 as threads
from fusewire.v1 import conversation_threads_pb2_grpc as threads_grpc
from google.rpc import error_details_pb2, status_pb2

log = logging.getLogger(__name__)

CHANNEL = {
    # Who only listens does not notice that the other side is gone without a word: a machine that lost its power, a
    # firewall that forgot the connection. gRPC asks only if it is told to, and stops after two answers without data.
    "grpc.keepalive_time_ms": 30_000,
    "grpc.keepalive_timeout_ms": 10_000,
    # In newer versions this one alone bounds the wait for an answer, and is a minute.
    "grpc.http2.ping_timeout_ms": 10_000,
    "grpc.http2.max_pings_without_data": 0,
    # Fusewire is on this machine, so no proxy leads to it.
    "grpc.enable_http_proxy": 0,
}
# Seconds before the next attempt where the server does not say: doubled each time, and less by chance, so that all who
# watched one server do not come back at the same moment.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5
# A server that is full; another may not be. No other RESOURCE_EXHAUSTED gets better by trying again.
FULL = ("TOO_MANY_STREAMS", "TOO_MANY_CALLS")


def watch_breakers(
    addresses: Iterable[str], prefix: str = "", model_keys: Iterable[str] = ()
) -> Iterator[breakers.WatchBreakersResponse]:
    """Yields what happens to these breakers, for ever: no change twice, and none missed unless a `resync` says so.

    `synced` comes once a connection. Close the iterator to end the watch.
    """
    # Up to where each breaker's history was told.
    places: dict[str, breakers.BreakerPosition] = {}
    request = breakers.WatchBreakersRequest(prefix=prefix, model_keys=model_keys)

    def begin(channel):
        resumed = breakers.WatchBreakersRequest(resume=places)
        resumed.MergeFrom(request)
        return breakers_grpc.CircuitBreakersStub(channel).WatchBreakers(resumed)

    for event in follow(addresses, begin):
        kind = event.WhichOneof("event")
        if kind in ("snapshot", "transition", "resync"):
            seen = event.resync.breaker if kind == "resync" else getattr(event, kind)
            places[seen.model_key] = breakers.BreakerPosition(epoch=seen.epoch, generation=seen.generation)
        elif kind == "removed":
            # Else every new connection would tell again that it is gone.
            places.pop(event.removed.model_key, None)
        yield event


def watch_thread(
    addresses: Iterable[str], thread_id: str, after_seq: int = 0
) -> Iterator[threads.WatchThreadResponse]:
    """Yields the messages after a seq, then what happens to the thread, until it is deleted or expires.

    After a `resync` read the thread again; what comes later is told.
    """
    request = threads.WatchThreadRequest(thread_id=thread_id, after_seq=after_seq)
    for event in follow(addresses, lambda channel: threads_grpc.ConversationThreadsStub(channel).WatchThread(request)):
        if event.HasField("position"):
            request.resume.CopyFrom(event.position)
        yield event


def follow(addresses: Iterable[str], begin: Callable) -> Iterator:
    """Yields the events of one stream after another, each at the next address, until one ends with OK."""
    failures = 0
    for address in itertools.cycle(addresses):
        try:
            # A channel of its own each time: one that has failed makes calls fail until its own pause is over, which
            # grows to two minutes.
            with grpc.insecure_channel(address, tuple(CHANNEL.items())) as channel:
                for event in begin(channel):
                    failures = 0
                    yield event
            return
        except grpc.RpcError as failure:
            pause = pause_after(failure, failures)
            if pause is None:
                raise
            failures += 1
            log.warning("%s: %s; going on in %.1f s", address, failure.details(), pause)
            time.sleep(pause)


def pause_after(failure: grpc.RpcError, failures: int) -> float | None:
    """The seconds to wait before a watch goes on after a failure, which follows upon so many; none: it must not."""
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    packed = dict(failure.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    for detail in status_pb2.Status.FromString(packed).details:
        # Each takes only what is its own.
        detail.Unpack(info)
        detail.Unpack(retry)
    is_full = failure.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and info.reason in FULL
    if failure.code() != grpc.StatusCode.UNAVAILABLE and not is_full:
        return None
    if retry.HasField("retry_delay"):
        return retry.retry_delay.ToMilliseconds() / 1000 * random.uniform(1, 1.25)
    return min(FIRST_PAUSE * 2 ** min(failures, 10), LONGEST_PAUSE) * random.uniform(0.5, 1)


def line_of(event) -> str:
    """An event of either watch in one line."""
    kind = event.WhichOneof("event")
    value = getattr(event, kind)
    when, text = datetime.datetime.now(datetime.UTC), kind
    match kind:
        case "transition":
            when = value.transition_time.ToDatetime(datetime.UTC)
            text = f"{value.model_key} {name(breakers.State, value.from_state)} -> {state_of(value, value.to_state)}"
            text += f" {name(breakers.TransitionReason, value.reason)}"
            text += f" by {value.actor}" * bool(value.actor) + f": {value.detail}" * bool(value.detail)
        case "snapshot":
            text = f"{value.model_key} {state_of(value, value.state)}"
        case "resync":
            text = f"resync: {value.why}"
            # What a thread is now has to be read; a breaker is told.
            if now := getattr(value, "breaker", None):
                text = f"{now.model_key} {state_of(now, now.state)} {text}"
        case "removed":
            text = f"{value.model_key} {'expired' if value.expired else 'deleted'}"
        case "serving_mode_changed":
            text = f"serves {name(common.ServingMode, value.mode)}"
        case "appended" | "updated":
            text = " ".join([kind, *(f"{each.seq}:{name(threads.Role, each.role)}" for each in value.messages)])
        case "truncated":
            text = f"truncated to {value.first_seq}..{value.last_seq}"
    local = " (LOCAL)" * (event.authority == common.AUTHORITY_LOCAL)
    return f"{when:%H:%M:%S}.{when.microsecond // 1000:03} {text}{local}"


def state_of(seen, state: int) -> str:
    """A breaker's state, and who decides where that is not the state machine."""
    mode = f" ({name(breakers.Mode, seen.mode)})" * (seen.mode != breakers.MODE_AUTOMATIC)
    return name(breakers.State, state) + mode


def name(enum, value: int) -> str:
    """OPEN of STATE_OPEN."""
    return re.sub("^(STATE|MODE|TRANSITION_REASON|SERVING_MODE|ROLE)_", "", enum.Name(value))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("addresses", type=lambda text: text.split(","), help="when one fails the next is asked")
    parser.add_argument("prefix", nargs="?", default="", help="of model keys; default: all")
    parser.add_argument("--thread", metavar="ID", help="watch this thread instead")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    if arguments.thread:
        events = watch_thread(arguments.addresses, arguments.thread)
    else:
        events = watch_breakers(arguments.addresses, arguments.prefix)
    try:
        for event in events:
            print(line_of(event), flush=True)
    except grpc.RpcError as failure:
        sys.exit(f"{failure.code().name}: {failure.details()}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
