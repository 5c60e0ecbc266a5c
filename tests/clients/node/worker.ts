// A worker's loop around its model calls, guarded by Fusewire's circuit breakers. An example to copy.
//
// It asks Fusewire which model of a fallback chain may be called, calls it, and says how that went.

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

import type { ProtoGrpcType } from "./generated/circuit_breakers.js";
import type { AcquireFirstResponse__Output as AcquireFirstResponse } from "./generated/fusewire/v1/AcquireFirstResponse.js";
import type { CircuitBreakersClient } from "./generated/fusewire/v1/CircuitBreakers.js";
import type { Permit__Output as Permit } from "./generated/fusewire/v1/Permit.js";
import type { RenewPermitResponse__Output as RenewPermitResponse } from "./generated/fusewire/v1/RenewPermitResponse.js";
import type { ReportRequest } from "./generated/fusewire/v1/ReportRequest.js";
import type { ReportResponse__Output as ReportResponse } from "./generated/fusewire/v1/ReportResponse.js";
import type { State__Output as State } from "./generated/fusewire/v1/State.js";
import type { Duration, Duration__Output } from "./generated/google/protobuf/Duration.js";

// Where the .proto files are; a project of its own keeps a copy of Fusewire's proto/.
const PROTO = fileURLToPath(new URL("../../../../proto", import.meta.url));

// Milliseconds that Fusewire may take for one answer. It is close by; what it asks for takes milliseconds.
const RPC_TIMEOUT = 5_000;

/** Connects to Fusewire: one client a process. The options must be those that the types were generated with. */
export function connect(address: string): CircuitBreakersClient {
  const definition = loadSync("fusewire/v1/circuit_breakers.proto", {
    includeDirs: [PROTO],
    // An int64 as text: a number is exact up to 2^53 only, and a permit has to go back as it came.
    longs: String,
    // "STATE_OPEN" rather than 2.
    enums: String,
    // Fields that were not sent are there with their defaults; messages that were not sent are null.
    defaults: true,
    // A field that says which one of several was sent: here, whether an optional one was.
    oneofs: true,
  });
  const loaded = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;
  // Fusewire is on this machine, so no proxy leads to it.
  const options = { "grpc.enable_http_proxy": 0 };
  return new loaded.fusewire.v1.CircuitBreakers(address, grpc.credentials.createInsecure(), options);
}

/** No model gave an answer. */
export class NoAnswer extends Error {
  override name = "NoAnswer";
}

export interface Answer {
  modelKey: string;
  text: string;
}

export interface Options {
  /** Milliseconds that a call of a model may take. */
  callTimeout?: number;
  /** Told the state of a breaker whenever this worker learns of it; for logs and metrics. */
  saw?: (modelKey: string, state: State) => void;
}

export interface AskOptions {
  /** Calls of models at most. */
  attempts?: number;
  /** Milliseconds to wait at most for leave to call. */
  patience?: number;
  /** Gives up, also in the middle of a call. */
  signal?: AbortSignal;
}

/** Calls models, those first that come first, as their breakers allow. */
export class Worker {
  private readonly callTimeout: number;
  private readonly saw: (modelKey: string, state: State) => void;

  /** `models`: what can fail, by the name that all workers give it (the model key), and its URL; best first. */
  constructor(
    private readonly breakers: CircuitBreakersClient,
    private readonly models: ReadonlyMap<string, string>,
    { callTimeout = 60_000, saw = () => {} }: Options = {},
  ) {
    this.callTimeout = callTimeout;
    this.saw = saw;
  }

  /**
   * Returns the first good answer and whose it is.
   *
   * After a failed call it just asks Fusewire again: that model comes first until its breaker opens, then the next.
   */
  async ask(prompt: string, { attempts = 10, patience = 120_000, signal }: AskOptions = {}): Promise<Answer> {
    const deadline = performance.now() + patience;
    for (let attempt = 0; attempt < attempts; attempt++) {
      const permit = await this.waitForPermit(deadline, signal);
      const { status, text } = await this.call(permit, prompt, signal);
      if (status >= 200 && status < 300) {
        return { modelKey: permit.modelKey, text };
      }
      // The request is at fault; no other call of it will do better. The exceptions are the model's affair.
      if (status >= 400 && status < 500 && ![401, 402, 403, 408, 429].includes(status)) {
        throw new NoAnswer(`${permit.modelKey} refused the request with ${status}`);
      }
    }
    throw new NoAnswer(`${attempts} calls failed`);
  }

  /** Waits until one of the models may be called. The permit says which. */
  private async waitForPermit(deadline: number, signal?: AbortSignal): Promise<Permit> {
    const modelKeys = [...this.models.keys()];
    for (;;) {
      signal?.throwIfAborted();
      // The id makes it safe for a channel to retry this call: the same id is the same permit. Every new question has
      // a new one.
      const request = { modelKeys, requestId: randomUUID() };
      const answer = await unary<AcquireFirstResponse>((done) =>
        this.breakers.acquireFirst(request, soon(), done),
      );
      for (const rejection of answer.rejections) {
        this.saw(rejection.modelKey, rejection.state);
      }
      if (answer.permit) {
        // Only trial calls of a HALF_OPEN breaker have a lease.
        if (answer.permit.leaseId) {
          this.saw(answer.permit.modelKey, "STATE_HALF_OPEN");
        }
        return answer.permit;
      }
      // Absent when nobody knows. At most 5 s, so as to learn soon of a breaker that was reset by hand.
      const pause = Math.min(Math.max(answer.retryAfter ? millis(answer.retryAfter) : 1_000, 10), 5_000);
      if (performance.now() + pause > deadline) {
        throw new NoAnswer(`none of ${modelKeys.join(", ")} may be called`);
      }
      await sleep(pause, undefined, signal && { signal });
    }
  }

  /** Calls the model of a permit once; status 0 stands for no answer. Reports in every case. */
  private async call(permit: Permit, prompt: string, signal?: AbortSignal): Promise<{ status: number; text: string }> {
    const report: ReportRequest = { permit };
    const began = performance.now();
    // Ends the call at its time limit, or when the caller gives up. (From Node 20 on: AbortSignal.any.)
    const ending = new AbortController();
    const timer = setTimeout(() => ending.abort(), this.callTimeout);
    const giveUp = () => ending.abort();
    signal?.addEventListener("abort", giveUp);
    const renewing = this.renew(permit, ending.signal);
    try {
      signal?.throwIfAborted();
      const response = await fetch(this.models.get(permit.modelKey)!, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: prompt,
        signal: ending.signal,
      });
      const text = await response.text();
      // Fusewire knows what a status means for a breaker.
      report.httpStatus = response.status;
      const pause = retryAfter(response.headers);
      if (pause !== undefined) {
        report.retryAfter = duration(pause);
      }
      if (response.status >= 400) {
        report.detail = brief(text);
      }
      return { status: response.status, text };
    } catch (failure) {
      if (signal?.aborted) {
        // No fault of the model.
        report.outcome = "OUTCOME_CANCELLED";
        throw failure;
      }
      report.outcome = ending.signal.aborted ? "OUTCOME_TIMEOUT" : "OUTCOME_FAILURE";
      // fetch says only that it failed; why, is in the cause.
      report.detail = brief(String((failure as Error).cause ?? failure));
      return { status: 0, text: "" };
    } finally {
      report.duration = duration(performance.now() - began);
      clearTimeout(timer);
      signal?.removeEventListener("abort", giveUp);
      // Ends the renewals as well.
      ending.abort();
      await renewing;
      await this.report(report);
    }
  }

  /** Tells Fusewire how a call went. An answer that was paid for is not given up when that fails. */
  private async report(report: ReportRequest): Promise<void> {
    try {
      const { breaker } = await unary<ReportResponse>((done) => this.breakers.report(report, soon(), done));
      if (breaker) {
        this.saw(breaker.modelKey, breaker.state);
      }
    } catch (failure) {
      console.warn(`a report was lost: ${failure}`);
    }
  }

  /** Keeps the lease of a trial call alive until the call has ended, renewing it at half of its time. */
  private async renew(permit: Permit, ended: AbortSignal): Promise<void> {
    if (!permit.lease) {
      return;
    }
    let lease = millis(permit.lease);
    let pause = lease / 2;
    while (await isOver(pause, ended)) {
      try {
        const answer = await unary<RenewPermitResponse>((done) =>
          this.breakers.renewPermit({ permit }, soon(), done),
        );
        if (!answer.renewed) {
          // The breaker has moved on; the report will be STALE, which is no error.
          return;
        }
        lease = answer.permit?.lease ? millis(answer.permit.lease) : lease;
        pause = lease / 2;
      } catch (failure) {
        console.warn(`a permit was not renewed: ${failure}`);
        pause = lease / 8;
      }
    }
  }
}

/** Waits; says whether the time is over, rather than something having ended before. */
async function isOver(pause: number, ended: AbortSignal): Promise<boolean> {
  return sleep(pause, true, { signal: ended }).catch(() => false);
}

/** A call of one rpc as a promise. */
export function unary<Response>(start: (done: grpc.requestCallback<Response>) => unknown): Promise<Response> {
  return new Promise((resolve, reject) => {
    start((error, response) => (error ? reject(error) : resolve(response!)));
  });
}

/** The deadline of a call that begins now. gRPC has none unless it is told. */
export function soon(): grpc.CallOptions {
  return { deadline: Date.now() + RPC_TIMEOUT };
}

/** Milliseconds of a Duration. */
export function millis({ seconds, nanos }: Duration__Output): number {
  return Number(seconds) * 1e3 + nanos / 1e6;
}

/** A Duration of milliseconds. */
export function duration(ms: number): Duration {
  return { seconds: Math.floor(ms / 1e3), nanos: Math.floor((ms % 1e3) * 1e6) };
}

/** The first bytes of a text; never half of a character, which would be no valid string in protobuf. */
function brief(text: string): string {
  return Buffer.from(text).subarray(0, 128).toString();
}

/** The pause in ms that an answer asks for, told in seconds or as a date; undefined if it makes no sense or has passed. */
export function retryAfter(headers: Headers): number | undefined {
  const text = headers.get("retry-after")?.trim() ?? "";
  if (/^[0-9]{1,9}$/.test(text)) {
    return Number(text) * 1e3 || undefined;
  }
  // By the clock that the date is told by, if the answer shows it.
  const pause = (httpDate(text) ?? NaN) - (httpDate(headers.get("date") ?? "") ?? Date.now());
  return pause > 0 ? pause : undefined;
}

/** Milliseconds since 1970 of a date in one of HTTP's three formats. Date.parse alone takes much else for a date. */
function httpDate(text: string): number | undefined {
  if (!/^(Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? .*\d\d:\d\d:\d\d( GMT| \d{4})$/.test(text)) {
    return undefined;
  }
  // The oldest format names no zone, and means GMT.
  const date = Date.parse(text.endsWith("GMT") ? text : `${text} GMT`);
  return Number.isNaN(date) ? undefined : date;
}
