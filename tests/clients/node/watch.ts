// A live watch that goes on where it was when a connection or a server is lost. An example to copy.
//
// As a program it prints what happens, a line each, to the breakers whose keys begin so, or to one thread:
//
//     node watch.js localhost:50051,localhost:50052 openai:
//     node watch.js localhost:50051 --thread tour

import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import * as grpc from "@grpc/grpc-js";
import { fromJSON, loadSync, type MessageTypeDefinition } from "@grpc/proto-loader";

import type { ProtoGrpcType as Breakers } from "./generated/circuit_breakers.js";
import type { ProtoGrpcType as Threads } from "./generated/conversation_threads.js";
import type { BreakerPosition } from "./generated/fusewire/v1/BreakerPosition.js";
import type { ThreadPosition__Output as ThreadPosition } from "./generated/fusewire/v1/ThreadPosition.js";
import type { WatchBreakersResponse__Output as BreakerEvent } from "./generated/fusewire/v1/WatchBreakersResponse.js";
import type { WatchThreadResponse__Output as ThreadEvent } from "./generated/fusewire/v1/WatchThreadResponse.js";

// Where the .proto files are; a project of its own keeps a copy of Fusewire's proto/.
const PROTO = fileURLToPath(new URL("../../../../proto", import.meta.url));
// The options must be those that the types were generated with; worker.ts says what they do.
const LOADING = { longs: String, enums: String, defaults: true, oneofs: true };

export const { fusewire } = grpc.loadPackageDefinition(
  loadSync(["fusewire/v1/circuit_breakers.proto", "fusewire/v1/conversation_threads.proto"], {
    includeDirs: [PROTO],
    ...LOADING,
  }),
) as unknown as Breakers & Threads;

export const CHANNEL: grpc.ChannelOptions = {
  // Who only listens does not notice that the other side is gone without a word: a machine that lost its power, a
  // firewall that forgot the connection. gRPC asks only if it is told to.
  "grpc.keepalive_time_ms": 30_000,
  "grpc.keepalive_timeout_ms": 10_000,
  // Each connection by itself: one that has failed makes calls fail until its own pause is over, which grows to two
  // minutes.
  "grpc.use_local_subchannel_pool": 1,
  // Fusewire is on this machine, so no proxy leads to it.
  "grpc.enable_http_proxy": 0,
};
// Milliseconds before the next attempt where the server does not say: doubled each time, and less by chance, so that
// all who watched one server do not come back at the same moment.
const [FIRST_PAUSE, LONGEST_PAUSE] = [100, 5_000];
// A server that is full; another may not be. No other RESOURCE_EXHAUSTED gets better by trying again.
const FULL = ["TOO_MANY_STREAMS", "TOO_MANY_CALLS"];

export interface WatchOptions {
  /** Breakers whose keys begin so; with neither this nor modelKeys all. */
  prefix?: string;
  modelKeys?: string[];
  /** Ends the watch, which then throws an AbortError. */
  signal?: AbortSignal;
}

/**
 * Yields what happens to breakers, for ever: no change twice, and none missed unless a `resync` says so. `synced` comes
 * once a connection.
 */
export async function* watchBreakers(
  addresses: string[],
  { prefix = "", modelKeys = [], signal }: WatchOptions = {},
): AsyncGenerator<BreakerEvent, void, undefined> {
  // Up to where each breaker's history was told.
  const places = new Map<string, BreakerPosition>();
  const begin = (address: string) => {
    const client = new fusewire.v1.CircuitBreakers(address, grpc.credentials.createInsecure(), CHANNEL);
    return { client, call: client.watchBreakers({ prefix, modelKeys, resume: Object.fromEntries(places) }) };
  };
  for await (const event of follow(addresses, begin, signal)) {
    const seen = event.snapshot ?? event.transition ?? event.resync?.breaker;
    if (seen) {
      places.set(seen.modelKey, { epoch: seen.epoch, generation: seen.generation });
    } else if (event.removed) {
      // Else every new connection would tell again that it is gone.
      places.delete(event.removed.modelKey);
    }
    yield event;
  }
}

/**
 * Yields the messages after a seq, then what happens to the thread, until it is deleted or expires. After a `resync`
 * read the thread again; what comes later is told.
 */
export async function* watchThread(
  addresses: string[],
  threadId: string,
  { afterSeq = "0", signal }: { afterSeq?: string; signal?: AbortSignal } = {},
): AsyncGenerator<ThreadEvent, void, undefined> {
  let resume: ThreadPosition | null = null;
  const begin = (address: string) => {
    const client = new fusewire.v1.ConversationThreads(address, grpc.credentials.createInsecure(), CHANNEL);
    return { client, call: client.watchThread({ threadId, afterSeq, resume }) };
  };
  for await (const event of follow(addresses, begin, signal)) {
    resume = event.position ?? resume;
    yield event;
  }
}

/** Yields the events of one stream after another, each at the next address, until one ends with OK. */
async function* follow<Event>(
  addresses: string[],
  begin: (address: string) => { client: grpc.Client; call: grpc.ClientReadableStream<Event> },
  signal?: AbortSignal,
): AsyncGenerator<Event, void, undefined> {
  for (let at = 0, failures = 0; ; at = (at + 1) % addresses.length) {
    signal?.throwIfAborted();
    const { client, call } = begin(addresses[at]!);
    // Also told of its end when nobody reads any more; without anybody who hears it, that would end the process.
    call.on("error", () => {});
    const cancel = () => call.cancel();
    signal?.addEventListener("abort", cancel);
    let pause: number;
    try {
      for await (const event of call) {
        failures = 0;
        yield event as Event;
      }
      return;
    } catch (failure) {
      signal?.throwIfAborted();
      pause = pauseAfter(failure as grpc.ServiceError, failures++);
      console.warn(`${addresses[at]}: ${(failure as Error).message}; going on in ${(pause / 1e3).toFixed(1)} s`);
    } finally {
      signal?.removeEventListener("abort", cancel);
      call.cancel();
      client.close();
    }
    await sleep(pause, undefined, signal && { signal });
  }
}

/** The time to wait before a watch goes on after a failure, which follows upon so many; throws what must be raised. */
function pauseAfter(failure: grpc.ServiceError, failures: number): number {
  const [packed] = failure.metadata?.get("grpc-status-details-bin") ?? [];
  const details = packed ? STATUS.deserialize(packed as Buffer).details : [];
  const told = (type: string) => details.find(({ typeUrl }) => typeUrl.endsWith(`/google.rpc.${type}`))?.value;
  const [info, retry] = [told("ErrorInfo"), told("RetryInfo")];
  const isFull =
    failure.code === grpc.status.RESOURCE_EXHAUSTED && info && FULL.includes(ERROR_INFO.deserialize(info).reason);
  if (failure.code !== grpc.status.UNAVAILABLE && !isFull) {
    throw failure;
  }
  const hint = retry && RETRY_INFO.deserialize(retry).retryDelay;
  if (hint) {
    return (Number(hint.seconds) * 1e3 + hint.nanos / 1e6) * (1 + Math.random() / 4);
  }
  return Math.min(FIRST_PAUSE * 2 ** failures, LONGEST_PAUSE) * (0.5 + Math.random() / 2);
}

// What an error tells beside its code: what is read here of google/rpc/status.proto and error_details.proto.
const field = (type: string, id: number) => ({ type, id });
const rpc = fromJSON(
  {
    nested: {
      Status: { fields: { details: { rule: "repeated", ...field("Any", 3) } } },
      Any: { fields: { typeUrl: field("string", 1), value: field("bytes", 2) } },
      ErrorInfo: { fields: { reason: field("string", 1) } },
      RetryInfo: { fields: { retryDelay: field("Duration", 1) } },
      Duration: { fields: { seconds: field("int64", 1), nanos: field("int32", 2) } },
    },
  },
  LOADING,
);
const read = <T>(name: string) => rpc[name] as unknown as MessageTypeDefinition<T, T>;
const STATUS = read<{ details: { typeUrl: string; value: Buffer }[] }>("Status");
const ERROR_INFO = read<{ reason: string }>("ErrorInfo");
const RETRY_INFO = read<{ retryDelay: { seconds: string; nanos: number } | null }>("RetryInfo");

/** An event of either watch in one line. */
export function lineOf(event: BreakerEvent | ThreadEvent): string {
  const time = (event as BreakerEvent).transition?.transitionTime;
  const when = time ? new Date(Number(time.seconds) * 1e3 + Math.floor(time.nanos / 1e6)) : new Date();
  const local = event.authority === "AUTHORITY_LOCAL" ? " (LOCAL)" : "";
  return `${when.toISOString().slice(11, 23)} ${textOf({ ...event } as BreakerEvent & ThreadEvent)}${local}`;
}

function textOf(event: BreakerEvent & ThreadEvent): string {
  const { snapshot, transition, resync, removed, servingModeChanged, appended, updated, truncated } = event;
  if (transition) {
    const { modelKey, fromState, reason, actor, detail } = transition;
    const why = `${name(reason)}${actor && ` by ${actor}`}${detail && `: ${detail}`}`;
    return `${modelKey} ${name(fromState)} -> ${stateOf(transition, transition.toState)} ${why}`;
  }
  if (snapshot) {
    return `${snapshot.modelKey} ${stateOf(snapshot, snapshot.state)}`;
  }
  if (resync) {
    // What a thread is now has to be read; a breaker is told.
    const { breaker } = resync;
    return `${breaker ? `${breaker.modelKey} ${stateOf(breaker, breaker.state)} ` : ""}resync: ${resync.why}`;
  }
  if (removed) {
    return `${removed.modelKey} ${removed.expired ? "expired" : "deleted"}`;
  }
  if (servingModeChanged) {
    return `serves ${name(servingModeChanged.mode)}`;
  }
  if (truncated) {
    return `truncated to ${truncated.firstSeq}..${truncated.lastSeq}`;
  }
  const messages = (appended ?? updated)?.messages ?? [];
  return [event.event, ...messages.map(({ seq, role }) => `${seq}:${name(role)}`)].join(" ");
}

/** A breaker's state, and who decides where that is not the state machine. */
function stateOf({ mode }: { mode: string }, state: string): string {
  return `${name(state)}${mode === "MODE_AUTOMATIC" ? "" : ` (${name(mode)})`}`;
}

/** OPEN of STATE_OPEN. */
function name(value: string): string {
  return value.replace(/^(STATE|MODE|TRANSITION_REASON|SERVING_MODE|ROLE)_/, "");
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({ options: { thread: { type: "string" } }, allowPositionals: true });
  const [addresses = "127.0.0.1:50051", prefix = ""] = positionals;
  const events = values.thread
    ? watchThread(addresses.split(","), values.thread)
    : watchBreakers(addresses.split(","), { prefix });
  for await (const event of events) {
    console.log(lineOf(event));
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  main().catch((failure: Error) => {
    console.error(failure.message);
    process.exitCode = 1;
  });
}
