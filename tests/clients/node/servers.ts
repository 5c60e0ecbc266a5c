// Starts what clients talk to: a redis-server, fusewire processes, faulty models, a Python worker. Ends those and no
// others. FUSEWIRE_BIN is the server's binary (default target/debug/fusewire), PYTHON the interpreter that has the
// packages of the Python client.

import { type ChildProcessWithoutNullStreams, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify, stripVTControlCharacters } from "node:util";

import type { CircuitBreakersClient } from "./generated/fusewire/v1/CircuitBreakers.js";
import { connect } from "./worker.js";

const ROOT = fileURLToPath(new URL("../../../../", import.meta.url));
const BINARY = resolve(process.env["FUSEWIRE_BIN"] ?? join(ROOT, "target/debug/fusewire"));
const PYTHON = process.env["PYTHON"] ?? "python3";

const run = promisify(execFile);

/** Returns the first true value of condition(), asked until the deadline. */
export async function poll<T>(what: string, condition: () => T | Promise<T>, seconds = 20): Promise<T> {
  const deadline = performance.now() + seconds * 1e3;
  while (performance.now() < deadline) {
    const value = await condition();
    if (value) {
      return value;
    }
    await sleep(10);
  }
  throw new Error(`not within ${seconds} s: ${what}`);
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, "close");
  return port;
}

/** A child process, with what it has printed. */
export class Process {
  readonly child: ChildProcessWithoutNullStreams;
  readonly lines: string[] = [];
  private printed = "";
  private readonly exited: Promise<unknown>;

  constructor(command: string, args: string[], options: { cwd?: string; env?: NodeJS.ProcessEnv } = {}) {
    this.child = spawn(command, args, { env: process.env, ...options });
    this.exited = new Promise((done) => this.child.on("exit", done).on("error", done));
    // Told by the end of the process.
    this.child.stdin.on("error", () => {});
    createInterface({ input: this.child.stdout }).on("line", (line) => this.lines.push(line));
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.on("data", (data: Buffer) => (this.printed += data));
    }
  }

  get output(): string {
    return stripVTControlCharacters(this.printed);
  }

  get running(): boolean {
    return this.child.pid !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  /** Ends it if it is still running, within 20 s by SIGKILL. */
  async end(): Promise<void> {
    this.child.stdin.end();
    this.child.kill("SIGTERM");
    const killer = setTimeout(() => this.child.kill("SIGKILL"), 20_000);
    await this.exited;
    clearTimeout(killer);
  }

  protected async ready<T>(what: string, found: () => T | undefined | Promise<T | undefined>): Promise<T> {
    const value = await poll(what, async () => {
      if (!this.running) {
        throw new Error(`ended before: ${what}\n${this.output}`);
      }
      return found();
    });
    return value as T;
  }
}

/** A redis-server on a port of its own; a durable one has its data again when it comes back, even from SIGKILL. */
export class Redis extends Process {
  private constructor(
    private readonly folder: string,
    readonly port: number,
    private readonly durable: boolean,
  ) {
    const bound = ["--port", `${port}`, "--bind", "127.0.0.1", "--save", ""];
    const log = durable ? ["--appendonly", "yes", "--appendfsync", "always"] : ["--appendonly", "no"];
    super("redis-server", [...bound, ...log], { cwd: folder });
  }

  /** Starts it on a free port; tries another if that was taken since. */
  static async start(folder: string, durable = false): Promise<Redis> {
    for (let attempt = 1; ; attempt++) {
      const redis = new Redis(folder, await freePort(), durable);
      try {
        return await redis.answering();
      } catch (failure) {
        await redis.end();
        if (attempt === 5) {
          throw failure;
        }
      }
    }
  }

  /** Starts one where this was, which has ended. */
  async again(): Promise<Redis> {
    return new Redis(this.folder, this.port, this.durable).answering();
  }

  /** Waits until it is this process that answers on the port. */
  private async answering(): Promise<this> {
    const pid = `process_id:${this.child.pid}`;
    await this.ready("redis-server answers", async () => (await this.cli("INFO", "server")).includes(pid));
    return this;
  }

  /** What redis-cli prints, as lines. */
  async cli(...args: string[]): Promise<string[]> {
    const { stdout } = await run("redis-cli", ["-p", `${this.port}`, ...args]).catch(() => ({ stdout: "" }));
    return stdout.replace(/\n$/, "").split(/\r?\n/);
  }
}

/** A fusewire process on a free port, with these settings and none from outside, and a client of it. */
export class Fusewire extends Process {
  address = "";
  breakers!: CircuitBreakersClient;

  static async start(folder: string, settings: NodeJS.ProcessEnv): Promise<Fusewire> {
    const env = {
      PATH: process.env["PATH"],
      FUSEWIRE__SERVER__LISTEN: "127.0.0.1:0",
      // A busy machine must not look like an outage.
      FUSEWIRE__REDIS__OUTAGE_AFTER: "10s",
      ...settings,
    };
    const server = new Fusewire(BINARY, [], { cwd: folder, env });
    try {
      server.address = await server.ready("fusewire listens", () => {
        return /listening.*address="?(127\.0\.0\.1:\d+)/.exec(server.output)?.[1];
      });
    } catch (failure) {
      await server.end();
      throw failure;
    }
    server.breakers = connect(server.address);
    return server;
  }

  override async end(): Promise<void> {
    this.breakers?.close();
    await super.end();
  }
}

/** What a model does with one call: see faulty_models.py. */
export interface Behaviour {
  status?: number;
  delay?: number;
  retry_after?: number;
  as_date?: boolean;
  hang?: boolean;
  drop?: boolean;
}

/** Models that fail as they are told, in a process of their own. */
export class FaultyModels extends Process {
  address = "";

  static async start(): Promise<FaultyModels> {
    const models = new FaultyModels(PYTHON, [join(ROOT, "tests/clients/faulty_models.py")]);
    try {
      models.address = await models.ready("the models listen", () => models.lines[0]);
    } catch (failure) {
      await models.end();
      throw failure;
    }
    return models;
  }

  url(model: string): string {
    return `${this.address}/v1/${model}/messages`;
  }

  async script(model: string, ...behaviours: Behaviour[]): Promise<void> {
    const response = await fetch(`${this.address}/script/${model}`, {
      method: "PUT",
      body: JSON.stringify(behaviours),
    });
    if (!response.ok) {
      throw new Error(`not scripted: ${response.status}`);
    }
  }

  /** When calls came, in seconds by one clock, and how many wait for their answer. */
  async calls(model: string): Promise<{ arrivals: number[]; in_flight: number }> {
    const response = await fetch(`${this.address}/calls/${model}`);
    return (await response.json()) as { arrivals: number[]; in_flight: number };
  }
}

/** What a worker.py tells: a state that it saw, an answer, or an error. */
export interface Told {
  model?: string;
  state?: string;
  answer?: string;
  error?: string;
}

/** A worker in Python, in a process of its own. */
export class PythonWorker extends Process {
  static async start(server: Fusewire, models: ReadonlyMap<string, string>, attempts: number): Promise<PythonWorker> {
    const folder = join(ROOT, "tests/clients/python");
    const { stdout } = await run(PYTHON, [join(folder, "generate.py")]);
    const chain = [...models].flatMap(([key, url]) => ["--model", `${key}=${url}`]);
    const args = [join(folder, "worker.py"), "--fusewire", server.address, "--attempts", `${attempts}`, ...chain];
    const env = { ...process.env, PYTHONPATH: stdout.trim(), PYTHONDONTWRITEBYTECODE: "1" };
    return new PythonWorker(PYTHON, args, { env });
  }

  /** Asks it, and waits for the answer or error that it tells. */
  async ask(prompt: string): Promise<Told> {
    let next = this.lines.length;
    this.child.stdin.write(`${prompt}\n`);
    return this.ready("the Python worker has an answer", () => {
      while (next < this.lines.length) {
        const told = JSON.parse(this.lines[next++]!) as Told;
        if (told.state === undefined) {
          return told;
        }
      }
      return undefined;
    });
  }

  /** The states that it has seen. */
  get states(): Set<string> {
    const told = this.lines.map((line) => JSON.parse(line) as Told);
    return new Set(told.flatMap(({ state }) => state ?? []));
  }
}

/** Two servers, a and b, on one Redis, and faulty models. */
export interface Fleet {
  a: Fusewire;
  b: Fusewire;
  redis: Redis;
  models: FaultyModels;
  /** Starts another server, with these settings. */
  start(settings?: NodeJS.ProcessEnv): Promise<Fusewire>;
  end(): Promise<void>;
}

export async function startFleet(): Promise<Fleet> {
  const folder = await mkdtemp(join(tmpdir(), "fusewire-node-"));
  const started: Process[] = [];
  const keep = <T extends Process>(process: T): T => {
    started.push(process);
    return process;
  };
  const end = async () => {
    for (const each of started) {
      await each.end();
    }
    await rm(folder, { recursive: true });
  };
  try {
    const models = keep(await FaultyModels.start());
    const redis = await Redis.start(folder);
    // Ended last.
    started.push(redis);
    const start = async (settings: NodeJS.ProcessEnv = {}) => {
      const server = await Fusewire.start(folder, { REDIS_URL: `redis://127.0.0.1:${redis.port}`, ...settings });
      started.unshift(server);
      return server;
    };
    const [a, b] = [await start(), await start()];
    return { a, b, redis, models, start, end };
  } catch (failure) {
    await end();
    throw failure;
  }
}
