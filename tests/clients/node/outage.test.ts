// A chat and a breaker loop go on through `kill -9` of redis-server and its return; no call is repeated by hand.

import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { fileURLToPath } from "node:url";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

import type { ProtoGrpcType as Diagnostics } from "./generated/diagnostics.js";
import type { AcquireResponse__Output as AcquireResponse } from "./generated/fusewire/v1/AcquireResponse.js";
import type { AppendMessagesResponse__Output as AppendMessagesResponse } from "./generated/fusewire/v1/AppendMessagesResponse.js";
import type { Authority__Output as Authority } from "./generated/fusewire/v1/Authority.js";
import type { CircuitBreakersClient } from "./generated/fusewire/v1/CircuitBreakers.js";
import type { ConversationThreadsClient } from "./generated/fusewire/v1/ConversationThreads.js";
import type { DiagnosticsClient } from "./generated/fusewire/v1/Diagnostics.js";
import type { GetBreakerResponse__Output as GetBreakerResponse } from "./generated/fusewire/v1/GetBreakerResponse.js";
import type { GetContextResponse__Output as GetContextResponse } from "./generated/fusewire/v1/GetContextResponse.js";
import type { GetStatusResponse__Output as GetStatusResponse } from "./generated/fusewire/v1/GetStatusResponse.js";
import type { ListMessagesResponse__Output as ListMessagesResponse } from "./generated/fusewire/v1/ListMessagesResponse.js";
import type { Message__Output as Message } from "./generated/fusewire/v1/Message.js";
import type { ReportResponse__Output as ReportResponse } from "./generated/fusewire/v1/ReportResponse.js";
import type { ServingMode__Output as ServingMode } from "./generated/fusewire/v1/ServingMode.js";
import { Fusewire, poll, Redis } from "./servers.js";
import { fusewire } from "./watch.js";
import { soon, unary } from "./worker.js";

const IN_TIME = { timeout: 60_000 };
const PROTO = fileURLToPath(new URL("../../../../proto", import.meta.url));
const [THREAD, KEY] = ["chat", "anthropic:claude-sonnet-4-5"];
// What must have been done in each state of Redis before the test goes on to the next.
const ENOUGH = 20;

const diagnostics = grpc.loadPackageDefinition(
  loadSync("fusewire/v1/diagnostics.proto", { includeDirs: [PROTO], longs: String, enums: String, defaults: true }),
) as unknown as Diagnostics;

interface Served {
  threads: ConversationThreadsClient;
  breakers: CircuitBreakersClient;
  diagnostics: DiagnosticsClient;
  redis: Redis;
}

/** A server, its Redis, which keeps what it acknowledged, and the retries shipped for clients. */
async function serve(t: TestContext): Promise<Served> {
  const folder = await mkdtemp(join(tmpdir(), "fusewire-node-"));
  const ends: (() => Promise<unknown> | void)[] = [() => rm(folder, { recursive: true })];
  t.after(async () => {
    for (const end of ends.reverse()) {
      await end();
    }
  });
  const served = { redis: await Redis.start(folder, true) } as Served;
  ends.push(() => served.redis.end());
  const REDIS_URL = `redis://127.0.0.1:${served.redis.port}`;
  const server = await Fusewire.start(folder, { REDIS_URL });
  ends.push(() => server.end());
  const options = {
    "grpc.enable_http_proxy": 0,
    "grpc.service_config": await readFile(join(PROTO, "service_config.json"), "utf8"),
  };
  const plain = grpc.credentials.createInsecure();
  served.threads = new fusewire.v1.ConversationThreads(server.address, plain, options);
  served.breakers = new fusewire.v1.CircuitBreakers(server.address, plain, options);
  served.diagnostics = new diagnostics.fusewire.v1.Diagnostics(server.address, plain, options);
  ends.push(() => [served.threads, served.breakers, served.diagnostics].forEach((client) => client.close()));
  return served;
}

const statusOf = ({ diagnostics }: Served) =>
  unary<GetStatusResponse>((done) => diagnostics.getStatus({}, soon(), done));

/** All messages, page by page, by Redis alone. */
async function readThread({ threads }: Served): Promise<Message[]> {
  const found: Message[] = [];
  for (let pageToken = ""; ; ) {
    const request = { threadId: THREAD, pageSize: 1000, pageToken, requireShared: true };
    const page = await unary<ListMessagesResponse>((done) => threads.listMessages(request, soon(), done));
    found.push(...page.messages);
    pageToken = page.nextPageToken;
    if (!pageToken) {
      return found;
    }
  }
}

/** Does the same again and again until it is ended. The first failure ends it and is thrown by whoever waits for it. */
class Repeated {
  private failure: unknown;
  private ending = false;
  private readonly work: Promise<void>;

  constructor(once: () => Promise<unknown>) {
    this.work = (async () => {
      while (!this.ending) {
        await once();
      }
    })().catch((failure: unknown) => {
      this.failure = failure;
    });
  }

  async wait(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
    await poll(what, async () => this.failure !== undefined || (await condition()), 40);
    this.check();
  }

  async end(): Promise<void> {
    this.ending = true;
    await this.work;
    this.check();
  }

  private check(): void {
    if (this.failure !== undefined) {
      throw this.failure;
    }
  }
}

/** Turns of a chat, with ids chosen here. `acknowledged` is what must be in the thread afterwards. */
class Chat {
  readonly acknowledged: [id: string, text: string][] = [];
  readonly authorities: Authority[] = [];
  private turns = 0;

  constructor(private readonly threads: ConversationThreadsClient) {}

  async begin(): Promise<void> {
    await unary((done) => this.threads.createThread({ thread: { id: THREAD }, requestId: "chat-1" }, soon(), done));
  }

  /** A question, what the model would see, and its answer. */
  async turn(): Promise<void> {
    this.turns++;
    await this.say(`user-${this.turns}`, "ROLE_USER");
    const context = await unary<GetContextResponse>((done) =>
      this.threads.getContext({ threadId: THREAD, maxMessages: 20 }, soon(), done),
    );
    this.authorities.push(context.authority);
    assert.deepEqual(texts(context.messages), this.acknowledged.slice(-20), "what was acknowledged is what is seen");
    await this.say(`assistant-${this.turns}`, "ROLE_ASSISTANT");
  }

  private async say(id: string, role: "ROLE_USER" | "ROLE_ASSISTANT"): Promise<void> {
    const text = `this is ${id}`;
    const messages = [{ id, role, parts: [{ text }] }];
    const answer = await unary<AppendMessagesResponse>((done) =>
      this.threads.appendMessages({ threadId: THREAD, messages }, soon(), done),
    );
    const [appended] = answer.messages;
    assert.equal(appended?.id, id);
    // One that only memory holds has no seq yet, and says so. A duplicate is one that Redis took when it was killed.
    const isProvisional = answer.authority === "AUTHORITY_LOCAL" && !appended.duplicate;
    assert.deepEqual([appended.provisional, appended.seq === "0"], [isProvisional, isProvisional]);
    this.acknowledged.push([id, text]);
    this.authorities.push(answer.authority);
  }
}

const texts = (messages: Message[]) => messages.map(({ id, parts }) => [id, parts[0]?.text]);

/** One stream through it all, and the thread as its reader knows it. */
class Watched {
  /** By seq, what every instance shares; what only memory held is not the thread yet. */
  private known = new Map<number, string>();
  readonly modes: ServingMode[] = [];
  readonly reading: Repeated;
  provisional = 0;
  resyncs = 0;

  constructor(t: TestContext, served: Served) {
    const call = served.threads.watchThread({ threadId: THREAD });
    // Told when the test ends it.
    call.on("error", () => {});
    t.after(() => call.cancel());
    const events = call[Symbol.asyncIterator]();
    this.reading = new Repeated(async () => {
      const { value: event, done } = await events.next();
      assert.ok(!done, "the watch ended");
      for (const { seq, id, provisional } of event.appended?.messages ?? []) {
        if (provisional) {
          this.provisional++;
        } else {
          this.known.set(Number(seq), id);
        }
      }
      if (event.resync) {
        this.resyncs++;
        this.known = new Map((await readThread(served)).map(({ seq, id }) => [Number(seq), id]));
      }
      if (event.servingModeChanged) {
        this.modes.push(event.servingModeChanged.mode);
      }
    });
  }

  get ids(): string[] {
    return [...this.known].sort(([one], [other]) => one - other).map(([, id]) => id);
  }
}

/** Kills Redis and starts it again while the work goes on; returns the modes that the server told of itself. */
async function throughAnOutage(served: Served, working: Repeated, authorities: Authority[]): Promise<ServingMode[]> {
  const modes: ServingMode[] = [];
  const mode = async () => {
    const { mode } = await statusOf(served);
    if (modes.at(-1) !== mode) {
      modes.push(mode);
    }
    return mode;
  };
  const goingOn = async (authority: Authority) => {
    const begun = authorities.length;
    await working.wait(`${ENOUGH} answers ${authority}`, async () => {
      await mode();
      return authorities.slice(begun).filter((each) => each === authority).length >= ENOUGH;
    });
  };
  await goingOn("AUTHORITY_SHARED");
  const exited = once(served.redis.child, "exit");
  served.redis.child.kill("SIGKILL");
  assert.deepEqual(await exited, [null, "SIGKILL"]);
  await working.wait("DEGRADED", async () => (await mode()) === "SERVING_MODE_DEGRADED");
  await goingOn("AUTHORITY_LOCAL");
  served.redis = await served.redis.again();
  await working.wait("SHARED", async () => (await mode()) === "SERVING_MODE_SHARED");
  await goingOn("AUTHORITY_SHARED");
  return modes;
}

test("a chat goes on, and the thread is exactly what was acknowledged", IN_TIME, async (t) => {
  const served = await serve(t);
  const chat = new Chat(served.threads);
  await chat.begin();
  const watched = new Watched(t, served);
  const chatting = new Repeated(() => chat.turn());
  const modes = await throughAnOutage(served, chatting, chat.authorities);
  await chatting.end();

  assert.deepEqual([modes[0], modes.at(-1)], ["SERVING_MODE_SHARED", "SERVING_MODE_SHARED"]);
  assert.ok(modes.includes("SERVING_MODE_DEGRADED"), `${modes}`);
  const { journal } = await statusOf(served);
  assert.deepEqual([journal?.entries, journal?.parked], ["0", []], "everything was merged");

  const stored = await readThread(served);
  assert.deepEqual(texts(stored), chat.acknowledged, "each once, and in order");
  assert.deepEqual(
    stored.map(({ seq }) => Number(seq)),
    stored.map((_, index) => index + 1),
  );
  assert.ok(!stored.some(({ provisional }) => provisional));

  const expected = stored.map(({ id }) => id).join();
  await watched.reading.wait("the watch knows the thread", () => watched.ids.join() === expected);
  assert.deepEqual([watched.modes[0], watched.modes.at(-1)], ["SERVING_MODE_DEGRADED", "SERVING_MODE_SHARED"]);
  assert.ok(watched.resyncs > 0 && watched.provisional > 0);
});

test("a breaker loop goes on: every call is admitted and reported", IN_TIME, async (t) => {
  const served = await serve(t);
  const { breakers } = served;
  const authorities: Authority[] = [];
  const looping = new Repeated(async () => {
    const acquired = await unary<AcquireResponse>((done) => breakers.acquire({ modelKey: KEY }, soon(), done));
    assert.ok(acquired.admitted && acquired.permit, acquired.reason);
    const request = { permit: acquired.permit, httpStatus: 200 };
    const reported = await unary<ReportResponse>((done) => breakers.report(request, soon(), done));
    // A permit of the one side is stale on the other.
    if (acquired.permit.epoch === reported.breaker?.epoch) {
      assert.equal(reported.disposition, "DISPOSITION_APPLIED");
    }
    authorities.push(acquired.authority, reported.authority);
  });
  const modes = await throughAnOutage(served, looping, authorities);
  await looping.end();
  assert.ok(modes.includes("SERVING_MODE_DEGRADED"), `${modes}`);
  const { authority, breaker } = await unary<GetBreakerResponse>((done) =>
    breakers.getBreaker({ modelKey: KEY, requireShared: true }, soon(), done),
  );
  assert.deepEqual([authority, breaker?.state], ["AUTHORITY_SHARED", "STATE_CLOSED"]);
});
