"""The worker of worker.py with models that fail: breakers open, ask for a pause, recover, and are shared."""

import datetime
import email.message
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from types import SimpleNamespace

import pytest
import worker
from fusewire.v1 import circuit_breakers_pb2 as pb
from generate import GENERATED
from servers import poll

HELD = {"hang": True}
FAILING = {"status": 500}


def configure(server, key, **settings):
    """Gives a breaker settings of its own: one failure opens it for a minute, where nothing else is said."""
    settings = {"consecutive_failures": 1, "open_duration": timedelta(minutes=1)} | settings
    server.breakers.ConfigureBreaker(
        pb.ConfigureBreakerRequest(model_key=key, settings=pb.BreakerSettings(**settings))
    )


def half_open(server, key, **settings):
    """Makes the next call of that model a trial call."""
    configure(server, key, **settings)
    server.breakers.TripBreaker(pb.TripBreakerRequest(model_key=key, open_for=timedelta(milliseconds=1)))


def breaker(server, key):
    return server.breakers.GetBreaker(pb.GetBreakerRequest(model_key=key)).breaker


def history(server, key):
    """A breaker's changes as (from, to, reason); they have no gap."""
    entries = server.breakers.ListTransitions(pb.ListTransitionsRequest(model_key=key)).transitions
    assert [each.generation for each in entries] == list(range(1, len(entries) + 1))
    names = pb.State.Name, pb.State.Name, pb.TransitionReason.Name
    changes = [(each.from_state, each.to_state, each.reason) for each in entries]
    return [
        tuple(name(value).partition("_")[2].removeprefix("REASON_") for name, value in zip(names, change))
        for change in changes
    ]


RECOVERY = [
    ("CLOSED", "OPEN", "CONSECUTIVE_FAILURES"),
    ("OPEN", "HALF_OPEN", "OPEN_ELAPSED"),
    ("HALF_OPEN", "CLOSED", "TRIAL_PASSED"),
]


def working(server, urls, **fields):
    """A worker, and the states that it saw."""
    states = []
    fields = {"call_timeout": 30, "saw": lambda key, state: states.append((key, state))} | fields
    return worker.Worker(server.breakers, urls, **fields), states


def test_a_failing_model_is_left_for_the_next_when_its_breaker_opens(servers, models):
    """Three failures open it; the fourth call, and those after it, go to the second model alone."""
    configure(servers.a, "over:first", consecutive_failures=3)
    models.script("first", FAILING)
    urls = {"over:first": models.url("first"), "over:second": models.url("second")}
    one, states = working(servers.a, urls)
    for prompt in (b"one", b"two"):
        key, answer = one.ask(prompt)
        assert (key, json.loads(answer)["text"]) == ("over:second", f"echo {prompt.decode()}")
    assert (models.calls("first"), models.calls("second")) == (3, 2)
    assert history(servers.b, "over:first") == RECOVERY[:1]
    opened = breaker(servers.b, "over:first")
    assert opened.state == pb.STATE_OPEN
    assert opened.last_transition.detail == '{"error": "scripted 500"}'
    assert states.count(("over:first", "STATE_CLOSED")) == 2
    # One from the report that opened it, then one from each rejection.
    assert states.count(("over:first", "STATE_OPEN")) == 3


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_retry_after_opens_at_once_for_as_long_as_the_model_asks(servers, models, as_date):
    """To the millisecond by the server's clock; the worker comes back when it is over, and not before."""
    key = f"pause:{as_date}"
    configure(servers.a, key, consecutive_failures=100)
    models.script("paused", {"status": 429, "retry_after": 1, "as_date": as_date}, {})
    one, states = working(servers.a, {key: models.url("paused")})
    assert one.ask(b"again")[0] == key
    first, second = models.arrivals("paused")
    assert second - first >= 1

    changes = servers.b.breakers.ListTransitions(pb.ListTransitionsRequest(model_key=key)).transitions
    opened = changes[0]
    assert opened.open_until.ToMilliseconds() - opened.transition_time.ToMilliseconds() == 1000
    assert (opened.reason, opened.outcome) == (pb.TRANSITION_REASON_RETRY_AFTER, pb.OUTCOME_RATE_LIMITED)
    assert history(servers.b, key)[1:] == RECOVERY[1:]
    assert (key, "STATE_OPEN") in states


def test_a_healed_model_is_used_again_after_one_trial(servers, models):
    """One question lives through all three states."""
    configure(servers.a, "heals", consecutive_failures=2, open_duration=timedelta(milliseconds=300))
    models.script("heals", FAILING, FAILING, {})
    one, states = working(servers.a, {"heals": models.url("heals")})
    assert one.ask(b"hello")[0] == "heals"
    assert models.calls("heals") == 3
    assert history(servers.b, "heals") == RECOVERY
    seen = [state.removeprefix("STATE_") for key, state in states]
    assert list(dict.fromkeys(seen)) == ["CLOSED", "OPEN", "HALF_OPEN"]
    assert seen[-1] == "CLOSED"


@pytest.mark.parametrize(
    "behaviour, outcome",
    [
        ({"status": 500}, "FAILURE"),
        ({"status": 503}, "OVERLOADED"),
        ({"status": 529}, "OVERLOADED"),
        ({"status": 429}, "RATE_LIMITED"),
        ({"drop": True}, "FAILURE"),
        ({"hang": True}, "TIMEOUT"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_every_way_to_fail_is_told(servers, models, behaviour, outcome):
    key = f"fails:{outcome}:{'-'.join(map(str, behaviour.values()))}"
    configure(servers.a, key)
    models.script("fails", behaviour)
    one, _ = working(servers.a, {key: models.url("fails")}, call_timeout=0.3 if behaviour == HELD else 30)
    with pytest.raises(worker.NoAnswer):
        one.ask(b"hello", attempts=1)
    last = breaker(servers.b, key).last_transition
    assert (last.to_state, pb.Outcome.Name(last.outcome)) == (pb.STATE_OPEN, f"OUTCOME_{outcome}")


def test_a_refused_request_is_not_tried_again_and_not_counted(servers, models):
    configure(servers.a, "refuses")
    models.script("refuses", {"status": 400})
    one, _ = working(servers.a, {"refuses": models.url("refuses"), "unused": models.url("unused")})
    with pytest.raises(worker.NoAnswer):
        one.ask(b"hello")
    assert (models.calls("refuses"), models.calls("unused")) == (1, 0)
    assert breaker(servers.b, "refuses").state == pb.STATE_CLOSED


def test_a_worker_gives_up_when_no_model_may_be_called_in_time(servers, models):
    configure(servers.a, "shut")
    servers.a.breakers.TripBreaker(pb.TripBreakerRequest(model_key="shut"))
    one, _ = working(servers.a, {"shut": models.url("shut")})
    with pytest.raises(worker.NoAnswer, match="none of shut may be called"):
        one.ask(b"hello", patience=0.2)
    assert models.calls("shut") == 0


def test_a_long_trial_call_keeps_its_permit(servers, models):
    """The call outlives its lease of a second by renewals; nobody else gets the slot, and its report counts."""
    half_open(servers.a, "long", permit_lease=timedelta(seconds=1))
    models.script("long", HELD)
    one, _ = working(servers.a, {"long": models.url("long")})
    renewed, reported = [], []

    def told(answers, call):
        def tell(request, **options):
            answers.append(call(request, **options))
            return answers[-1]

        return tell

    stub = servers.a.breakers
    one.breakers = SimpleNamespace(
        AcquireFirst=stub.AcquireFirst,
        RenewPermit=told(renewed, stub.RenewPermit),
        Report=told(reported, stub.Report),
    )
    asking = threading.Thread(target=one.ask, args=(b"hello",))
    asking.start()
    try:
        poll("the third renewal, one and a half leases after the grant", lambda: len(renewed) >= 3)
        answer = servers.b.breakers.Acquire(pb.AcquireRequest(model_key="long"))
        assert (answer.admitted, answer.reason) == (False, pb.REJECTION_REASON_NO_PERMIT_LEFT)
    finally:
        models.script("long")
        asking.join(20)
    assert not asking.is_alive()
    assert all(each.renewed for each in renewed)
    assert [each.disposition for each in reported] == [pb.DISPOSITION_APPLIED]
    assert history(servers.b, "long")[1:] == RECOVERY[1:]


def test_a_worker_that_is_stopped_gives_its_permit_back(servers, models, tmp_path):
    """SIGTERM in the middle of a trial call: reported as CANCELLED, which frees the slot and says nothing of the model."""
    half_open(servers.a, "stopped")
    models.script("stopped", HELD)
    command = [sys.executable, str(pathlib.Path(worker.__file__)), "--fusewire", servers.a.address]
    child = subprocess.Popen(
        [*command, "--model", f"stopped={models.url('stopped')}"],
        env={**os.environ, "PYTHONPATH": str(GENERATED)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        child.stdin.write("hello\n")
        child.stdin.flush()
        poll("the call is under way", lambda: models.in_flight("stopped") or child.poll() is not None)
        assert breaker(servers.b, "stopped").permits_left == 0
        child.send_signal(signal.SIGTERM)
        told, _ = child.communicate(timeout=20)
    assert child.returncode == 128 + signal.SIGTERM
    assert [json.loads(line)["state"] for line in told.splitlines()] == ["STATE_HALF_OPEN"] * 2
    after = breaker(servers.b, "stopped")
    assert (after.state, after.permits_left, after.generation) == (pb.STATE_HALF_OPEN, 1, 2)


def test_workers_of_two_servers_drive_one_breaker(shared, models):
    """Eight at once fail, are held back, try one call and go on: three changes, of which one is to OPEN."""
    key, threads, prompts = "together", 8, 5
    configure(shared.a, key, consecutive_failures=5, open_duration=timedelta(milliseconds=300))
    # What comes after five failures is held, so that the trial ends when the test has seen it.
    models.script("together", *[FAILING] * 5, HELD)
    states, answers = [], []

    def work(server):
        one, seen = working(server, {key: models.url("together")})
        for _ in range(prompts):
            answers.append(one.ask(b"hello", attempts=100)[0])
        states.extend(seen)

    workers = [threading.Thread(target=work, args=(server,)) for server in (shared.a, shared.b) * (threads // 2)]
    for each in workers:
        each.start()
    try:
        poll("a trial call is under way", lambda: breaker(shared.b, key).state == pb.STATE_HALF_OPEN)
        assert answers == []
    finally:
        models.script("together")
        for each in workers:
            each.join(60)
    assert not any(each.is_alive() for each in workers)
    assert answers == [key] * threads * prompts
    assert {state for _, state in states} == {"STATE_CLOSED", "STATE_OPEN", "STATE_HALF_OPEN"}
    for server in (shared.a, shared.b):
        assert history(server, key) == RECOVERY
        assert breaker(server, key).state == pb.STATE_CLOSED
    fields = hash_of(shared.redis, key)
    assert (fields["state"], fields["generation"], fields["reason"]) == ("CLOSED", "3", "TRIAL_PASSED")
    assert fields["openUntil"] == ""


def hash_of(redis, key):
    """A breaker as redis-cli shows it."""
    flat = redis.cli("HGETALL", f"circuit_breaker:{key}")
    return dict(zip(flat[::2], flat[1::2]))


def test_redis_cli_shows_an_open_breaker(shared, models):
    """State, generation, reason and the time at which it ends, in plain text."""
    configure(shared.a, "anthropic:shown")
    models.script("shown", FAILING)
    one, _ = working(shared.a, {"anthropic:shown": models.url("shown")})
    with pytest.raises(worker.NoAnswer):
        one.ask(b"hello", attempts=1)
    fields = hash_of(shared.redis, "anthropic:shown")
    assert (fields["state"], fields["generation"], fields["reason"]) == ("OPEN", "1", "CONSECUTIVE_FAILURES")
    assert int(fields["openUntil"]) == int(fields["openedAt"]) + 60_000
    assert int(fields["openUntil"]) == breaker(shared.b, "anthropic:shown").open_until.ToMilliseconds()
    assert "circuit_breaker:anthropic:shown" in shared.redis.cli("--scan", "--pattern", "circuit_breaker:*")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("7", 7),
        (" 120 ", 120),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10),
        ("Sunday, 06-Nov-94 08:49:47 GMT", 10),
        ("Sun Nov  6 08:49:47 1994", 10),
        ("Sun, 06 Nov 1994 08:49:27 GMT", None),
        ("0", None),
        ("-1", None),
        ("1.5", None),
        ("١", None),
        ("9" * 5000, None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_retry_after_is_seconds_or_a_date_by_the_answers_own_clock(text, expected):
    headers = email.message.Message()
    headers["Date"] = "Sun, 06 Nov 1994 08:49:37 GMT"
    if text is not None:
        headers["Retry-After"] = text
    assert worker.retry_after(headers) == (expected and timedelta(seconds=expected))


def test_retry_after_without_date_is_by_our_clock():
    headers = email.message.Message()
    later = datetime.datetime.now(datetime.UTC) + timedelta(hours=1)
    headers["Retry-After"] = email.utils.format_datetime(later, usegmt=True)
    assert timedelta(minutes=59) < worker.retry_after(headers) <= timedelta(hours=1)
