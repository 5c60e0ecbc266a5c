// The worker of worker.ts with models that fail: breakers open, ask for a pause, recover, and are shared, also with a
// worker in Python.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import type { AcquireResponse__Output as AcquireResponse } from "./generated/fusewire/v1/AcquireResponse.js";
import type { BreakerSettings } from "./generated/fusewire/v1/BreakerSettings.js";
import type { Breaker__Output as Breaker } from "./generated/fusewire/v1/Breaker.js";
import type { GetBreakerResponse__Output as GetBreakerResponse } from "./generated/fusewire/v1/GetBreakerResponse.js";
import type { ListTransitionsResponse__Output as ListTransitionsResponse } from "./generated/fusewire/v1/ListTransitionsResponse.js";
import type { Transition__Output as Transition } from "./generated/fusewire/v1/Transition.js";
import { type Behaviour, type Fleet, type Fusewire, poll, PythonWorker, startFleet, type Told } from "./servers.js";
import { duration, millis, NoAnswer, type Options, retryAfter, soon, unary, Worker } from "./worker.js";

const FAILING: Behaviour = { status: 500 };
const HELD: Behaviour = { hang: true };

let fleet: Fleet;
before(async () => {
  fleet = await startFleet();
});
after(() => fleet?.end());

/** Gives a breaker settings of its own: one failure opens it for a minute, where nothing else is said. */
async function configure(server: Fusewire, modelKey: string, more: BreakerSettings = {}): Promise<void> {
  const settings = { consecutiveFailures: 1, openDuration: duration(60_000), ...more };
  await unary((done) => server.breakers.configureBreaker({ modelKey, settings }, soon(), done));
}

/** Makes the next call of that model a trial call. */
async function halfOpen(server: Fusewire, modelKey: string, more: BreakerSettings = {}): Promise<void> {
  await configure(server, modelKey, more);
  await unary((done) => server.breakers.tripBreaker({ modelKey, openFor: duration(1) }, soon(), done));
}

async function breakerOf(server: Fusewire, modelKey: string): Promise<Breaker> {
  const { breaker } = await unary<GetBreakerResponse>((done) =>
    server.breakers.getBreaker({ modelKey }, soon(), done),
  );
  return breaker!;
}

/** A breaker's changes; they have no gap. */
async function transitions(server: Fusewire, modelKey: string): Promise<Transition[]> {
  const { transitions } = await unary<ListTransitionsResponse>((done) =>
    server.breakers.listTransitions({ modelKey }, soon(), done),
  );
  const generations = transitions.map(({ generation }) => generation);
  assert.deepEqual(
    generations,
    transitions.map((_, index) => `${index + 1}`),
  );
  return transitions;
}

/** The same in short. */
async function history(server: Fusewire, modelKey: string): Promise<string[]> {
  return (await transitions(server, modelKey)).map(({ fromState, toState, reason }) =>
    `${fromState} ${toState} ${reason}`.replace(/STATE_|TRANSITION_REASON_/g, ""),
  );
}

const RECOVERY = [
  "CLOSED OPEN CONSECUTIVE_FAILURES",
  "OPEN HALF_OPEN OPEN_ELAPSED",
  "HALF_OPEN CLOSED TRIAL_PASSED",
];
const ALL_STATES = new Set(["STATE_CLOSED", "STATE_OPEN", "STATE_HALF_OPEN"]);

/** A worker whose models are called by their keys, and the states that it saw. */
function working(server: Fusewire, modelKeys: string[], options: Options = {}): { worker: Worker; states: string[] } {
  const states: string[] = [];
  const models = new Map(modelKeys.map((key) => [key, fleet.models.url(key)]));
  const saw = (modelKey: string, state: string) => states.push(`${modelKey} ${state}`);
  return { worker: new Worker(server.breakers, models, { callTimeout: 30_000, saw, ...options }), states };
}

async function countCalls(model: string): Promise<number> {
  return (await fleet.models.calls(model)).arrivals.length;
}

async function inFlight(model: string, count: number): Promise<boolean> {
  return (await fleet.models.calls(model)).in_flight === count;
}

/** A breaker as redis-cli shows it. */
async function hashOf(modelKey: string): Promise<Record<string, string | undefined>> {
  const flat = await fleet.redis.cli("HGETALL", `circuit_breaker:${modelKey}`);
  return Object.fromEntries(flat.flatMap((name, at) => (at % 2 === 0 ? [[name, flat[at + 1]]] : [])));
}

test("a failing model is left for the next when its breaker opens", async () => {
  await configure(fleet.a, "first", { consecutiveFailures: 3 });
  await fleet.models.script("first", FAILING);
  const { worker, states } = working(fleet.a, ["first", "second"]);
  for (const prompt of ["one", "two"]) {
    const { modelKey, text } = await worker.ask(prompt);
    assert.deepEqual([modelKey, JSON.parse(text).text], ["second", `echo ${prompt}`]);
  }
  assert.deepEqual([await countCalls("first"), await countCalls("second")], [3, 2]);
  assert.deepEqual(await history(fleet.b, "first"), RECOVERY.slice(0, 1));
  const opened = await breakerOf(fleet.b, "first");
  assert.equal(opened.state, "STATE_OPEN");
  assert.equal(opened.lastTransition?.detail, '{"error": "scripted 500"}');
  // One from the report that opened it, then one from each rejection.
  assert.equal(states.filter((each) => each === "first STATE_OPEN").length, 3);
});

for (const as_date of [false, true]) {
  test(`Retry-After as ${as_date ? "a date" : "seconds"} opens at once for as long as the model asks`, async () => {
    const key = `paused-${as_date}`;
    await configure(fleet.a, key, { consecutiveFailures: 100 });
    await fleet.models.script(key, { status: 429, retry_after: 1, as_date }, {});
    const { worker, states } = working(fleet.a, [key]);
    assert.equal((await worker.ask("again")).modelKey, key);
    const { arrivals } = await fleet.models.calls(key);
    assert.equal(arrivals.length, 2);
    assert.ok(arrivals[1]! - arrivals[0]! >= 1, `${arrivals}`);

    const opened = (await transitions(fleet.b, key))[0]!;
    assert.equal(Math.round(millis(opened.openUntil!) - millis(opened.transitionTime!)), 1000);
    assert.deepEqual(
      [opened.reason, opened.outcome],
      ["TRANSITION_REASON_RETRY_AFTER", "OUTCOME_RATE_LIMITED"],
    );
    assert.deepEqual((await history(fleet.b, key)).slice(1), RECOVERY.slice(1));
    assert.ok(states.includes(`${key} STATE_OPEN`));
  });
}

test("a healed model is used again after one trial", async () => {
  await configure(fleet.a, "heals", { consecutiveFailures: 2, openDuration: duration(300) });
  await fleet.models.script("heals", FAILING, FAILING, {});
  const { worker, states } = working(fleet.a, ["heals"]);
  assert.equal((await worker.ask("hello")).modelKey, "heals");
  assert.equal(await countCalls("heals"), 3);
  assert.deepEqual(await history(fleet.b, "heals"), RECOVERY);
  assert.deepEqual(
    [...new Set(states)],
    ["heals STATE_CLOSED", "heals STATE_OPEN", "heals STATE_HALF_OPEN"],
  );
  assert.equal(states.at(-1), "heals STATE_CLOSED");
});

const WAYS_TO_FAIL: [Behaviour, string][] = [
  [{ status: 500 }, "FAILURE"],
  [{ status: 503 }, "OVERLOADED"],
  [{ status: 529 }, "OVERLOADED"],
  [{ status: 429 }, "RATE_LIMITED"],
  [{ drop: true }, "FAILURE"],
  [{ hang: true }, "TIMEOUT"],
];
for (const [behaviour, outcome] of WAYS_TO_FAIL) {
  test(`${JSON.stringify(behaviour)} is told as ${outcome}`, async () => {
    const key = `fails-${Object.entries(behaviour).flat().join("-")}`;
    await configure(fleet.a, key);
    await fleet.models.script(key, behaviour);
    const { worker } = working(fleet.a, [key], { callTimeout: behaviour.hang ? 300 : 30_000 });
    await assert.rejects(worker.ask("hello", { attempts: 1 }), NoAnswer);
    const last = (await breakerOf(fleet.b, key)).lastTransition;
    assert.deepEqual([last?.toState, last?.outcome], ["STATE_OPEN", `OUTCOME_${outcome}`]);
  });
}

test("a refused request is not tried again and not counted", async () => {
  await configure(fleet.a, "refuses");
  await fleet.models.script("refuses", { status: 400 });
  const { worker } = working(fleet.a, ["refuses", "unused"]);
  await assert.rejects(worker.ask("hello"), NoAnswer);
  assert.deepEqual([await countCalls("refuses"), await countCalls("unused")], [1, 0]);
  assert.equal((await breakerOf(fleet.b, "refuses")).state, "STATE_CLOSED");
});

test("a worker gives up when no model may be called in time", async () => {
  await configure(fleet.a, "shut");
  await unary((done) => fleet.a.breakers.tripBreaker({ modelKey: "shut" }, soon(), done));
  const { worker } = working(fleet.a, ["shut"]);
  await assert.rejects(worker.ask("hello", { patience: 200 }), /none of shut may be called/);
  assert.equal(await countCalls("shut"), 0);
});

test("a long trial call keeps its permit by renewals", async () => {
  await halfOpen(fleet.a, "long", { permitLease: duration(1_000) });
  await fleet.models.script("long", HELD);
  const { worker } = working(fleet.a, ["long"]);
  const began = performance.now();
  const asked = worker.ask("hello");
  try {
    // One and a half leases after the grant. Without renewals the slot would be free by then.
    await poll("a lease and a half is over", async () => {
      return performance.now() - began > 1_500 && inFlight("long", 1);
    });
    const { admitted, reason } = await unary<AcquireResponse>((done) =>
      fleet.b.breakers.acquire({ modelKey: "long" }, soon(), done),
    );
    assert.deepEqual([admitted, reason], [false, "REJECTION_REASON_NO_PERMIT_LEFT"]);
  } finally {
    await fleet.models.script("long");
  }
  assert.equal((await asked).modelKey, "long");
  assert.deepEqual((await history(fleet.b, "long")).slice(1), RECOVERY.slice(1));
});

test("a worker that gives up frees its permit", async () => {
  await halfOpen(fleet.a, "stopped");
  await fleet.models.script("stopped", HELD);
  const stopping = new AbortController();
  const asked = working(fleet.a, ["stopped"]).worker.ask("hello", { signal: stopping.signal });
  await poll("the call is under way", () => inFlight("stopped", 1));
  assert.equal((await breakerOf(fleet.b, "stopped")).permitsLeft, 0);
  stopping.abort();
  await assert.rejects(asked, { name: "AbortError" });
  await poll("the call has ended", () => inFlight("stopped", 0));
  // Reported as CANCELLED, which says nothing of the model.
  const { state, permitsLeft, generation } = await breakerOf(fleet.b, "stopped");
  assert.deepEqual([state, permitsLeft, generation], ["STATE_HALF_OPEN", 1, "2"]);
});

test("workers of two servers drive one breaker", async () => {
  const key = "together";
  await configure(fleet.a, key, { consecutiveFailures: 5, openDuration: duration(300) });
  // What comes after five failures is held, so that the trial ends when the test has seen it.
  await fleet.models.script(key, ...Array<Behaviour>(5).fill(FAILING), HELD);
  const states = new Set<string>();
  const answers: string[] = [];
  const work = async (server: Fusewire) => {
    const one = working(server, [key]);
    for (let prompt = 0; prompt < 5; prompt++) {
      answers.push((await one.worker.ask("hello", { attempts: 100 })).modelKey);
    }
    one.states.forEach((each) => states.add(each.replace(`${key} `, "")));
  };
  const { a, b } = fleet;
  const workers = Promise.all([a, b, a, b, a, b, a, b].map(work));
  try {
    await poll("a trial call is under way", async () => (await breakerOf(b, key)).state === "STATE_HALF_OPEN");
    assert.deepEqual(answers, []);
  } finally {
    await fleet.models.script(key);
    await workers;
  }
  assert.deepEqual(answers, Array(40).fill(key));
  assert.deepEqual(states, ALL_STATES);
  for (const server of [a, b]) {
    assert.deepEqual(await history(server, key), RECOVERY);
    assert.equal((await breakerOf(server, key)).state, "STATE_CLOSED");
  }
});

test("a worker in Python and one in Node drive one breaker", async () => {
  const key = "polyglot";
  const { a, b, models } = fleet;
  await configure(a, key, { consecutiveFailures: 3, openDuration: duration(300), halfOpenPermits: 2 });
  const python = await PythonWorker.start(a, new Map([[key, models.url(key)]]), 1);
  const node = working(b, [key]);
  try {
    // Each calls once; the calls are held until both are there, so that each sees every state.
    const askBoth = async (...behaviours: Behaviour[]) => {
      await models.script(key, HELD);
      const asked = Promise.all([
        python.ask("hello"),
        node.worker.ask("hello", { attempts: 1 }).then<Told, Told>(
          ({ modelKey: model }) => ({ model }),
          (failure: Error) => ({ error: failure.message }),
        ),
      ]);
      await poll("both calls are under way", () => inFlight(key, 2));
      await models.script(key, ...behaviours);
      return asked;
    };
    const failed = { error: "1 calls failed" };
    assert.deepEqual(await askBoth(FAILING), [failed, failed]);
    assert.equal((await breakerOf(a, key)).state, "STATE_CLOSED");
    // The third failure opens; the fourth is too late to count, and is told so.
    assert.deepEqual(await askBoth(FAILING), [failed, failed]);
    assert.equal((await hashOf(key))["state"], "OPEN");
    // Both wait until the breaker is due, then take one of the two trial permits each.
    const [one, other] = await askBoth({});
    assert.deepEqual([one.model, other.model], [key, key]);

    assert.deepEqual(python.states, ALL_STATES);
    assert.deepEqual(new Set(node.states.map((each) => each.replace(`${key} `, ""))), ALL_STATES);
    for (const server of [a, b]) {
      assert.deepEqual(await history(server, key), RECOVERY);
    }
    const epochs = new Set((await transitions(a, key)).map(({ epoch }) => epoch));
    assert.equal(epochs.size, 1);
    const { state, generation, reason } = await hashOf(key);
    assert.deepEqual([state, generation, reason], ["CLOSED", "3", "TRIAL_PASSED"]);
  } finally {
    await models.script(key);
    await python.end();
  }
});

test("redis-cli shows an open breaker", async () => {
  const key = "shown";
  await configure(fleet.a, key);
  await fleet.models.script(key, FAILING);
  await assert.rejects(working(fleet.a, [key]).worker.ask("hello", { attempts: 1 }), NoAnswer);
  const { state, generation, reason, openedAt, openUntil } = await hashOf(key);
  assert.deepEqual([state, generation, reason], ["OPEN", "1", "CONSECUTIVE_FAILURES"]);
  assert.equal(Number(openUntil), Number(openedAt) + 60_000);
  assert.equal(Number(openUntil), Math.round(millis((await breakerOf(fleet.b, key)).openUntil!)));
});

test("Retry-After is seconds, or a date by the answer's own clock", () => {
  const expected: [string, number | undefined][] = [
    ["7", 7_000],
    [" 120 ", 120_000],
    ["Sun, 06 Nov 1994 08:49:47 GMT", 10_000],
    ["Sunday, 06-Nov-94 08:49:47 GMT", 10_000],
    ["Sun Nov  6 08:49:47 1994", 10_000],
    ["Sun, 06 Nov 1994 08:49:27 GMT", undefined],
    ["0", undefined],
    ["-1", undefined],
    ["1.5", undefined],
    ["9".repeat(5000), undefined],
    ["soon", undefined],
    ["model 7", undefined],
    ["", undefined],
  ];
  for (const [text, pause] of expected) {
    const headers = new Headers({ date: "Sun, 06 Nov 1994 08:49:37 GMT", "retry-after": text });
    assert.equal(retryAfter(headers), pause, text.slice(0, 40));
  }
  assert.equal(retryAfter(new Headers()), undefined);
  const inAnHour = retryAfter(new Headers({ "retry-after": new Date(Date.now() + 3_600_000).toUTCString() }))!;
  assert.ok(inAnHour > 3_590_000 && inAnHour <= 3_600_000, `${inAnHour}`);
});
