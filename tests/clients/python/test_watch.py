"""The watch of watch.py with servers that end, freeze or are full: it goes on, without a gap and without a repeat."""

import itertools
import os
import pathlib
import re
import signal
import sys
import threading
from collections import defaultdict

import grpc
import pytest
import watch
from calls import ENDINGS, connect, kind, until
from fusewire.v1 import circuit_breakers_pb2 as pb
from fusewire.v1 import common_pb2
from generate import GENERATED
from servers import Fusewire, Process, Redis, poll

pytestmark = pytest.mark.usefixtures("in_time")


def trip(server, key, **fields):
    server.breakers.TripBreaker(pb.TripBreakerRequest(model_key=key, **fields))


def reset(server, key, **fields):
    server.breakers.ResetBreaker(pb.ResetBreakerRequest(model_key=key, **fields))


def force(server, key, **fields):
    mode = pb.MODE_FORCED_OPEN
    server.breakers.OverrideBreaker(pb.OverrideBreakerRequest(model_key=key, mode=mode, **fields))


def delete(server, key):
    server.breakers.DeleteBreaker(pb.DeleteBreakerRequest(model_key=key))


def changes(events):
    """The transitions among them, as (key, generation, to)."""
    found = (event.transition for event in events if kind(event) == "transition")
    return [(each.model_key, each.generation, pb.State.Name(each.to_state)) for each in found]


def test_changes_made_through_another_server_are_told_in_order(servers):
    """First what is there, then each change when it happens, with who made it and why."""
    trip(servers.b, "live:old")
    events = watch.watch_breakers([servers.a.address], "live:", ["named"])
    first = until(events, "synced")
    snapshots = [(each.snapshot.model_key, each.snapshot.state) for each in first[:-1]]
    assert snapshots == [("live:old", pb.STATE_OPEN), ("named", pb.STATE_CLOSED)]
    reset(servers.b, "live:old", actor="ada", reason="quota was raised")
    trip(servers.b, "elsewhere")
    trip(servers.b, "live:new")
    trip(servers.b, "named")
    told = list(itertools.islice(events, 3))
    expected = [("live:old", 2, "STATE_CLOSED"), ("live:new", 1, "STATE_OPEN"), ("named", 1, "STATE_OPEN")]
    assert sorted(changes(told)) == sorted(expected)
    by_ada = next(each.transition for each in told if each.transition.model_key == "live:old")
    assert (by_ada.reason, by_ada.actor, by_ada.detail) == (pb.TRANSITION_REASON_RESET, "ada", "quota was raised")
    assert {each.authority for each in [*first, *told]} == {servers.authority}


@ENDINGS
def test_a_watch_goes_on_at_another_server_in_the_midst_of_changes(shared, victim, sig, status):
    """Sixty changes of each of three breakers, and the server that serves the watch ends at about the thirtieth."""
    keys, count = [f"midst-{sig.name}:{n}" for n in range(3)], 60

    def change():
        for _ in range(count // 2):
            for call, key in itertools.product((trip, reset), keys):
                call(shared.a, key)

    for key in keys:
        # A breaker of which there is nothing yet begins with a change rather than a snapshot.
        delete(shared.a, key)
    events = watch.watch_breakers([victim.address, shared.b.address], f"midst-{sig.name}:")
    told = until(events, "synced")
    assert told[:-1] == []
    changing = threading.Thread(target=change, daemon=True)
    changing.start()
    generations, epochs = defaultdict(list), defaultdict(set)
    for event in events:
        told.append(event)
        if kind(event) == "transition":
            generations[event.transition.model_key].append(event.transition.generation)
            epochs[event.transition.model_key].add(event.transition.epoch)
        if sum(map(len, generations.values())) == 30 * len(keys):
            victim.child.send_signal(sig)
        # Who has missed nothing need not be told `synced` last.
        if all(generations[key][-1:] == [count] for key in keys) and list(map(kind, told)).count("synced") == 2:
            break
    changing.join(20)
    # Nothing had to begin again: no resync, and no snapshot of what was known.
    others = [watch.line_of(event) for event in told if kind(event) not in ("transition", "synced")]
    assert others == []
    assert generations == {key: list(range(1, count + 1)) for key in keys}
    assert {len(found) for found in epochs.values()} == {1}
    assert victim.child.wait(20) == status


def test_a_frozen_server_is_left(shared, victim, monkeypatch):
    """It keeps its connections and says nothing: only the keepalive notices."""
    for option in ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms"):
        assert watch.CHANNEL[option] >= 10_000
        monkeypatch.setitem(watch.CHANNEL, option, 1000)
    trip(shared.a, "frozen")
    events = watch.watch_breakers([victim.address, shared.b.address], model_keys=["frozen"])
    until(events, "synced")
    victim.child.send_signal(signal.SIGSTOP)
    try:
        reset(shared.a, "frozen")
        assert changes(until(events, "synced")) == [("frozen", 2, "STATE_CLOSED")]
    finally:
        victim.child.send_signal(signal.SIGCONT)


@ENDINGS
def test_what_was_lost_is_told_as_a_resync(shared, victim, sig, status):
    """Another breaker has taken the name meanwhile: nobody knows what the old one did last."""
    key = f"lost-{sig.name}"
    trip(shared.a, key)
    events = watch.watch_breakers([victim.address, shared.b.address], model_keys=[key])
    before = until(events, "synced")[0].snapshot
    assert victim.end(sig) == status
    delete(shared.a, key)
    trip(shared.a, key)
    reset(shared.a, key)
    event = until(events, "resync")[-1]
    now = event.resync.breaker
    assert (now.model_key, now.generation, now.state) == (key, 2, pb.STATE_CLOSED)
    assert now.epoch != before.epoch
    assert re.search(rf" {key} CLOSED resync: .*another epoch", watch.line_of(event))
    # The watch goes on from there.
    trip(shared.a, key)
    assert changes(until(events, "transition")) == [(key, 3, "STATE_OPEN")]


def test_a_breaker_that_is_no_more_is_forgotten(shared, victim):
    """Told once that it is gone, not again by the next server; one that went meanwhile is told by that one."""
    trip(shared.a, "gone:now")
    trip(shared.a, "gone:later")
    events = watch.watch_breakers([victim.address, shared.b.address], "gone:")
    assert len(until(events, "synced")) == 3
    delete(shared.a, "gone:now")
    event = next(events)
    assert kind(event) == "removed" and not event.removed.expired
    assert (event.removed.model_key, event.removed.generation) == ("gone:now", 1)
    victim.end(signal.SIGKILL)
    delete(shared.a, "gone:later")
    removed = [each.removed.model_key for each in until(events, "synced") if kind(each) == "removed"]
    assert removed == ["gone:later"]
    trip(shared.a, "gone:now")
    event = next(events).transition
    assert (event.model_key, event.generation) == ("gone:now", 1)


def test_a_full_server_is_left_for_the_next(shared, tmp_path, monkeypatch):
    """And with no other address, it is asked again until it has a place."""
    redis = f"redis://127.0.0.1:{shared.redis.port}"
    full = connect(Fusewire(tmp_path, "full", REDIS_URL=redis, FUSEWIRE__SERVER__MAX_OPEN_STREAMS="1"))
    try:
        only = watch.watch_breakers([full.address], model_keys=["full"])
        assert [kind(each) for each in until(only, "synced")] == ["snapshot", "synced"]
        other = watch.watch_breakers([full.address, shared.b.address], model_keys=["full"])
        until(other, "synced")
        other.close()
        waiting = watch.watch_breakers([full.address], model_keys=["full"])
        tries = []
        monkeypatch.setattr(watch.time, "sleep", lambda pause: (tries.append(pause), only.close()))
        until(waiting, "synced")
        waiting.close()
        assert tries and all(0 < pause <= watch.LONGEST_PAUSE for pause in tries)
    finally:
        full.end()


def test_an_error_of_the_request_is_raised(servers):
    events = watch.watch_breakers([servers.a.address], "{")
    with pytest.raises(grpc.RpcError) as raised:
        next(events)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_an_outage_of_redis_is_told_and_then_everything_anew(tmp_path):
    """The watch stays where it is, says that memory answers, and begins again from what Redis says."""
    redis = Redis.start(tmp_path)
    server = connect(Fusewire(tmp_path, REDIS_URL=f"redis://127.0.0.1:{redis.port}"))
    try:
        trip(server, "kept")
        events = watch.watch_breakers([server.address], model_keys=["kept"])
        until(events, "synced")
        # As an instance alone would see it: Redis does not answer, and then does, with what it had.
        redis.child.send_signal(signal.SIGSTOP)
        event = until(events, "serving_mode_changed")[-1]
        assert event.serving_mode_changed.mode == common_pb2.SERVING_MODE_DEGRADED
        assert watch.line_of(event).endswith(" serves DEGRADED (LOCAL)")
        redis.child.send_signal(signal.SIGCONT)
        event = until(events, "serving_mode_changed")[-1]
        assert event.serving_mode_changed.mode == common_pb2.SERVING_MODE_SHARED
        event = until(events, "resync")[-1]
        assert event.resync.breaker.state == pb.STATE_OPEN
        assert re.search(" kept OPEN resync: redis was unreachable", watch.line_of(event))
    finally:
        redis.child.send_signal(signal.SIGCONT)
        server.end()
        redis.end()


def test_the_program_prints_a_line_an_event(shared, victim, tmp_path):
    """And goes on doing so when the server ends; an operator's words are in the line."""
    program = pathlib.Path(watch.__file__)
    trip(shared.a, "shown:a")
    env = {**os.environ, "PYTHONPATH": str(GENERATED), "PYTHONDONTWRITEBYTECODE": "1"}
    addresses = f"{victim.address},{shared.b.address}"
    child = Process(tmp_path, "watch", [sys.executable, str(program), addresses, "shown:"], env)

    def lines():
        # Those on standard error tell what became of connections.
        return re.findall(r"^\d\d:\d\d:\d\d\.\d{3} (.*)$", child.output(), re.MULTILINE)

    try:
        poll("the program watches", lambda: "synced" in lines() or not child.running())
        reset(shared.a, "shown:a", actor="ada", reason="quota was raised")
        poll("a change", lambda: len(lines()) == 3)
        victim.end()
        force(shared.a, "shown:a", actor="ada")
        delete(shared.a, "shown:b")
        poll("the program watches again", lambda: lines().count("synced") == 2)
        trip(shared.a, "shown:b")
        poll("a change", lambda: len(lines()) == 6)
        delete(shared.a, "shown:b")
        poll("its end", lambda: len(lines()) == 7)
        assert lines() == [
            "shown:a OPEN",
            "synced",
            "shown:a OPEN -> CLOSED RESET by ada: quota was raised",
            "shown:a CLOSED -> CLOSED (FORCED_OPEN) OVERRIDE by ada",
            "synced",
            "shown:b CLOSED -> OPEN TRIPPED",
            "shown:b deleted",
        ]
        assert f"{victim.address}: the server is shutting down; going on in 0." in child.output()
        assert child.running()
    finally:
        child.end()


def test_the_program_says_why_it_cannot_watch(shared, tmp_path):
    env = {**os.environ, "PYTHONPATH": str(GENERATED), "PYTHONDONTWRITEBYTECODE": "1"}
    child = Process(tmp_path, "watch", [sys.executable, watch.__file__, shared.a.address, "{"], env)
    try:
        assert child.child.wait(20) == 1
        assert child.output().startswith("INVALID_ARGUMENT: prefix: ")
    finally:
        child.end()
