// The watch of watch.ts on a thread: it goes on at another server where it was, and ends when the thread does.

import assert from "node:assert/strict";
import { once } from "node:events";
import { after, before, test } from "node:test";

import * as grpc from "@grpc/grpc-js";

import type { ConversationThreadsClient } from "./generated/fusewire/v1/ConversationThreads.js";
import type { WatchThreadResponse__Output as ThreadEvent } from "./generated/fusewire/v1/WatchThreadResponse.js";
import { type Fleet, startFleet } from "./servers.js";
import { CHANNEL, fusewire, lineOf, watchThread } from "./watch.js";
import { soon, unary } from "./worker.js";

// An event that does not come fails the test, rather than to be waited for without end.
const IN_TIME = { timeout: 60_000 };

let fleet: Fleet;
let threads: ConversationThreadsClient;
before(async () => {
  fleet = await startFleet();
  threads = new fusewire.v1.ConversationThreads(fleet.a.address, grpc.credentials.createInsecure(), CHANNEL);
});
after(async () => {
  threads?.close();
  await fleet?.end();
});

const append = (threadId: string, id: string) =>
  unary((done) => {
    const messages = [{ id, role: "ROLE_USER" as const, parts: [{ text: "hello" }] }];
    return threads.appendMessages({ threadId, messages, createIfMissing: true }, soon(), done);
  });
const remove = (threadId: string) => unary((done) => threads.deleteThread({ threadId }, soon(), done));

/** The events up to the first of that kind. */
async function until(events: AsyncGenerator<ThreadEvent>, last: ThreadEvent["event"]): Promise<ThreadEvent[]> {
  const found: ThreadEvent[] = [];
  for (;;) {
    const { value, done } = await events.next();
    assert.ok(!done, `ended before ${last}`);
    found.push(value);
    if (value.event === last) {
      return found;
    }
  }
}

/** The events up to the end. */
async function rest(events: AsyncGenerator<ThreadEvent>): Promise<ThreadEvent[]> {
  const found: ThreadEvent[] = [];
  for await (const event of events) {
    found.push(event);
  }
  return found;
}

const kinds = (events: ThreadEvent[]) => events.map(({ event }) => event);

/** Of the messages that were appended. */
const seqs = (events: ThreadEvent[]) =>
  events.flatMap(({ appended }) => appended?.messages ?? []).map(({ seq }) => Number(seq));

test("what happens is told until the thread is deleted", IN_TIME, async (t) => {
  for (const id of ["m1", "m2", "m3"]) {
    await append("watched", id);
  }
  const events = watchThread([fleet.b.address], "watched", { afterSeq: "1", signal: t.signal });
  assert.deepEqual(seqs(await until(events, "synced")), [2, 3]);
  await append("watched", "m4");
  const told = await until(events, "appended");
  assert.match(lineOf(told.at(-1)!), / appended 4:USER$/);
  await unary((done) => threads.truncateThread({ threadId: "watched", afterSeq: "2" }, soon(), done));
  const { truncated } = (await until(events, "truncated")).at(-1)!;
  assert.deepEqual([truncated?.firstSeq, truncated?.lastSeq], ["1", "2"]);
  await remove("watched");
  assert.deepEqual(kinds(await rest(events)), ["deleted"]);
});

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  test(`a watch of a thread goes on, in the midst of appends, after ${signal}`, IN_TIME, async (t) => {
    const [thread, count] = [`midst-${signal}`, 200];
    const victim = await fleet.start();
    await append(thread, "m1");
    const events = watchThread([victim.address, fleet.b.address], thread, { signal: t.signal });
    const told = await until(events, "synced");
    const working = (async () => {
      for (let n = 2; n <= count; n++) {
        await append(thread, `m${n}`);
      }
    })();
    let ended: Promise<unknown> | undefined;
    while (seqs(told).at(-1) !== count || kinds(told).filter((kind) => kind === "synced").length < 2) {
      told.push((await events.next()).value as ThreadEvent);
      if (!ended && seqs(told).length >= 100) {
        ended = once(victim.child, "exit");
        victim.child.kill(signal);
      }
    }
    await working;
    assert.deepEqual(told.filter(({ appended, synced }) => !appended && !synced).map(lineOf), []);
    assert.deepEqual(seqs(told), Array.from({ length: count }, (_, index) => index + 1));
    await ended;
    await remove(thread);
    assert.deepEqual(kinds(await rest(events)), ["deleted"]);
  });
}

test("a thread that never was is an error", IN_TIME, async (t) => {
  const events = watchThread([fleet.a.address], "never", { signal: t.signal });
  await assert.rejects(events.next(), { code: grpc.status.NOT_FOUND });
});
