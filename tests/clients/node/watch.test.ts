// The watch of watch.ts with servers that end, freeze or are full: it goes on, without a gap and without a repeat.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";

import * as grpc from "@grpc/grpc-js";

import type { OverrideBreakerRequest } from "./generated/fusewire/v1/OverrideBreakerRequest.js";
import type { ResetBreakerRequest } from "./generated/fusewire/v1/ResetBreakerRequest.js";
import type { WatchBreakersResponse__Output as BreakerEvent } from "./generated/fusewire/v1/WatchBreakersResponse.js";
import { type Fleet, type Fusewire, poll, Process, startFleet } from "./servers.js";
import { CHANNEL, lineOf, watchBreakers, type WatchOptions } from "./watch.js";
import { soon, unary } from "./worker.js";

// An event that does not come fails the test, rather than to be waited for without end.
const IN_TIME = { timeout: 60_000 };
const PROGRAM = fileURLToPath(new URL("watch.js", import.meta.url));

let fleet: Fleet;
before(async () => {
  fleet = await startFleet();
});
after(() => fleet?.end());

const trip = (server: Fusewire, modelKey: string) =>
  unary((done) => server.breakers.tripBreaker({ modelKey }, soon(), done));
const reset = (server: Fusewire, modelKey: string, more: ResetBreakerRequest = {}) =>
  unary((done) => server.breakers.resetBreaker({ modelKey, ...more }, soon(), done));
const override = (server: Fusewire, modelKey: string, more: OverrideBreakerRequest) =>
  unary((done) => server.breakers.overrideBreaker({ modelKey, ...more }, soon(), done));
const remove = (server: Fusewire, modelKey: string) =>
  unary((done) => server.breakers.deleteBreaker({ modelKey }, soon(), done));

/** The events of a watch, which ends with the test. */
function watching(t: TestContext, servers: Fusewire[], options: WatchOptions): AsyncGenerator<BreakerEvent> {
  const events = watchBreakers(
    servers.map(({ address }) => address),
    { signal: t.signal, ...options },
  );
  t.after(() => events.return(undefined));
  return events;
}

/** The events up to the first of that kind. */
async function until(events: AsyncGenerator<BreakerEvent>, last: BreakerEvent["event"]): Promise<BreakerEvent[]> {
  const found: BreakerEvent[] = [];
  for (;;) {
    const { value, done } = await events.next();
    assert.ok(!done, `ended before ${last}`);
    found.push(value);
    if (value.event === last) {
      return found;
    }
  }
}

const kinds = (events: BreakerEvent[]) => events.map(({ event }) => event);

/** The transitions among them. */
const changes = (events: BreakerEvent[]) =>
  events.flatMap(({ transition }) =>
    transition ? [`${transition.modelKey} ${transition.generation} ${transition.toState}`] : [],
  );

async function end(server: Fusewire, signal: NodeJS.Signals): Promise<void> {
  const exited = once(server.child, "exit");
  server.child.kill(signal);
  const expected = signal === "SIGTERM" ? [0, null] : [null, signal];
  assert.deepEqual(await exited, expected);
}

test("changes made through another server are told in order", IN_TIME, async (t) => {
  const { a, b } = fleet;
  await trip(b, "live:old");
  const events = watching(t, [a], { prefix: "live:", modelKeys: ["named"] });
  const first = await until(events, "synced");
  const snapshots = first.slice(0, -1).map(({ snapshot }) => [snapshot?.modelKey, snapshot?.state]);
  assert.deepEqual(snapshots, [
    ["live:old", "STATE_OPEN"],
    ["named", "STATE_CLOSED"],
  ]);
  await reset(b, "live:old", { actor: "ada", reason: "quota was raised" });
  const [byAda] = await until(events, "transition");
  assert.equal(byAda?.transition?.reason, "TRANSITION_REASON_RESET");
  assert.deepEqual([byAda.transition.actor, byAda.transition.detail], ["ada", "quota was raised"]);
  await trip(b, "elsewhere");
  await trip(b, "live:new");
  assert.deepEqual(changes(await until(events, "transition")), ["live:new 1 STATE_OPEN"]);
  await trip(b, "named");
  assert.deepEqual(changes(await until(events, "transition")), ["named 1 STATE_OPEN"]);
});

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  test(`a watch goes on at another server, in the midst of changes, after ${signal}`, IN_TIME, async (t) => {
    const { a, b } = fleet;
    const [keys, count] = [[0, 1, 2].map((n) => `midst-${signal}:${n}`), 60];
    const victim = await fleet.start();
    const events = watching(t, [victim, b], { prefix: `midst-${signal}:` });
    const told = await until(events, "synced");
    assert.deepEqual(kinds(told), ["synced"]);
    const changing = (async () => {
      for (let change = 0; change < count; change++) {
        for (const key of keys) {
          await (change % 2 ? reset : trip)(a, key);
        }
      }
    })();
    let ended: Promise<void> | undefined;
    const generations = new Map(keys.map((key) => [key, [] as string[]]));
    const epochs = new Set<string>();
    const isOver = () =>
      kinds(told).filter((kind) => kind === "synced").length === 2 &&
      [...generations.values()].every((found) => found.at(-1) === `${count}`);
    while (!isOver()) {
      const { value: event } = await events.next();
      told.push(event);
      if (event.transition) {
        generations.get(event.transition.modelKey)!.push(event.transition.generation);
        epochs.add(`${event.transition.modelKey} ${event.transition.epoch}`);
      }
      if (!ended && changes(told).length === 30 * keys.length) {
        ended = end(victim, signal);
      }
    }
    await changing;
    // Nothing had to begin again: no resync, and no snapshot of what was known.
    assert.deepEqual(told.filter(({ transition, synced }) => !transition && !synced).map(lineOf), []);
    const expected = Array.from({ length: count }, (_, index) => `${index + 1}`);
    assert.deepEqual(generations, new Map(keys.map((key) => [key, expected])));
    assert.equal(epochs.size, keys.length);
    await ended;
  });

  test(`what was lost is told as a resync after ${signal}`, IN_TIME, async (t) => {
    const { a, b } = fleet;
    const key = `lost-${signal}`;
    const victim = await fleet.start();
    await trip(a, key);
    const events = watching(t, [victim, b], { modelKeys: [key] });
    const [before] = await until(events, "synced");
    await end(victim, signal);
    // Another breaker takes the name.
    await remove(a, key);
    await trip(a, key);
    await reset(a, key);
    const event = (await until(events, "resync")).at(-1)!;
    const now = event.resync?.breaker;
    assert.deepEqual([now?.modelKey, now?.generation, now?.state], [key, "2", "STATE_CLOSED"]);
    assert.notEqual(now?.epoch, before?.snapshot?.epoch);
    assert.match(lineOf(event), new RegExp(` ${key} CLOSED resync: .*another epoch`));
    // The watch goes on from there.
    await trip(a, key);
    assert.deepEqual(changes(await until(events, "transition")), [`${key} 3 STATE_OPEN`]);
  });
}

test("a frozen server is left", IN_TIME, async (t) => {
  const { a, b } = fleet;
  const victim = await fleet.start();
  // Only the keepalive notices: it keeps its connections and says nothing.
  for (const option of ["grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms"] as const) {
    const before = CHANNEL[option]!;
    assert.ok(before >= 10_000);
    CHANNEL[option] = 1_000;
    t.after(() => (CHANNEL[option] = before));
  }
  await trip(a, "frozen");
  const events = watching(t, [victim, b], { modelKeys: ["frozen"] });
  await until(events, "synced");
  victim.child.kill("SIGSTOP");
  try {
    await reset(a, "frozen");
    assert.deepEqual(changes(await until(events, "synced")), ["frozen 2 STATE_CLOSED"]);
  } finally {
    victim.child.kill("SIGCONT");
  }
});

test("a breaker that is no more is forgotten", IN_TIME, async (t) => {
  const { a, b } = fleet;
  const victim = await fleet.start();
  await trip(a, "gone:now");
  await trip(a, "gone:later");
  const events = watching(t, [victim, b], { prefix: "gone:" });
  assert.deepEqual(kinds(await until(events, "synced")), ["snapshot", "snapshot", "synced"]);
  await remove(a, "gone:now");
  const { removed } = (await until(events, "removed"))[0]!;
  assert.deepEqual([removed?.modelKey, removed?.generation, removed?.expired], ["gone:now", "1", false]);
  await end(victim, "SIGKILL");
  await remove(a, "gone:later");
  // Told once that it is gone, not again by the next server; one that went meanwhile is told by that one.
  const told = (await until(events, "synced")).flatMap(({ removed }) => removed?.modelKey ?? []);
  assert.deepEqual(told, ["gone:later"]);
  await trip(a, "gone:now");
  assert.deepEqual(changes(await until(events, "transition")), ["gone:now 1 STATE_OPEN"]);
});

test("a full server is left for the next, or asked again until it has a place", IN_TIME, async (t) => {
  const full = await fleet.start({ FUSEWIRE__SERVER__MAX_OPEN_STREAMS: "1" });
  const only = watching(t, [full], { modelKeys: ["full"] });
  await until(only, "synced");
  await until(watching(t, [full, fleet.b], { modelKeys: ["full"] }), "synced");
  const warned = new Promise<string>((done) => t.mock.method(console, "warn", done));
  const waiting = until(watching(t, [full], { modelKeys: ["full"] }), "synced");
  assert.match(await warned, /1 streams open and opens no more; going on in/);
  await only.return(undefined);
  await waiting;
});

test("an error of the request is raised, and so is the caller's wish to end", IN_TIME, async (t) => {
  await assert.rejects(watching(t, [fleet.a], { prefix: "{" }).next(), { code: grpc.status.INVALID_ARGUMENT });
  const stopping = new AbortController();
  const events = watching(t, [fleet.a], { modelKeys: ["named"], signal: stopping.signal });
  await until(events, "synced");
  const next = events.next();
  stopping.abort();
  await assert.rejects(next, { name: "AbortError" });
});

test("the program prints a line an event, and goes on when the server ends", IN_TIME, async (t) => {
  const { a, b } = fleet;
  const victim = await fleet.start();
  await trip(a, "shown:a");
  const program = new Process(process.execPath, [PROGRAM, `${victim.address},${b.address}`, "shown:"]);
  t.after(() => program.end());
  const expected: string[] = [];
  const shows = (...lines: string[]) => {
    expected.push(...lines);
    return poll(`${lines}`, () => program.lines.length >= expected.length || !program.running);
  };
  await shows("shown:a OPEN", "synced");
  await reset(a, "shown:a", { actor: "ada", reason: "quota was raised" });
  await shows("shown:a OPEN -> CLOSED RESET by ada: quota was raised");
  await end(victim, "SIGTERM");
  await override(a, "shown:a", { mode: "MODE_FORCED_OPEN", actor: "ada" });
  await shows("shown:a CLOSED -> CLOSED (FORCED_OPEN) OVERRIDE by ada", "synced");
  await trip(a, "shown:b");
  await shows("shown:b CLOSED -> OPEN TRIPPED");
  await remove(a, "shown:b");
  await shows("shown:b deleted");
  assert.deepEqual(program.lines.map((line) => line.replace(/^\d\d:\d\d:\d\d\.\d{3} /, "")), expected);
  assert.match(program.output, /the server is shutting down; going on in 0\.\d s/);
  assert.ok(program.running);
});

test("the program says why it cannot watch", IN_TIME, async (t) => {
  const program = new Process(process.execPath, [PROGRAM, fleet.a.address, "{"]);
  t.after(() => program.end());
  const [status] = await once(program.child, "close");
  assert.equal(status, 1);
  assert.match(program.output, /^3 INVALID_ARGUMENT: prefix: /);
});
