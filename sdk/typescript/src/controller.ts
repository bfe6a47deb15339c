import { type Address, DEFAULT_URL, parseUrl } from "./address.js";
import { ForkdError, NotFound } from "./errors.js";
import type {
  BranchOptions,
  EvalResult,
  ExecOptions,
  ExecResult,
  HealthInfo,
  PingResult,
  SandboxInfo,
  SnapshotInfo,
  SnapshotInfoDetail,
  SnapshotOptions,
  SpawnOptions,
  TextResult,
  VersionInfo,
  WorkspaceInfo,
  WorkspaceOptions,
} from "./types.js";
import { type Call, checkToken, send } from "./wire.js";

/** What a call may take by itself, which is waited for on top of `timeoutMs`. */
const WARM_MS = 660_000;
const WRITE_MS = 300_000;
const FORK_MS = 1_000;
const EVAL_MS = 30_000;

export interface ControllerOptions {
  /** http://HOST:PORT, https://HOST:PORT or unix:/path; else FORKD_URL; else http://127.0.0.1:8889. */
  baseUrl?: string;
  /** Where the controller asks for one; else FORKD_TOKEN. */
  token?: string;
  /** How long to wait for an answer, beyond what the call itself was given. 60 000. */
  timeoutMs?: number;
  /** For https with an authority of one's own, in PEM. */
  ca?: string | Buffer;
  /** Used instead of Node's http, for instance by tests. */
  fetch?: typeof fetch;
}

export interface CreateSnapshotArguments {
  tag: string;
  /** The name of a built guest image, or else `kernel` and what belongs to it. */
  image?: string;
  kernel?: string;
  rootfs?: string;
  initrd?: string;
  rw?: boolean;
  tap?: string;
  /** 10. */
  bootWaitSecs?: number;
  memSizeMib?: number;
  vcpus?: number;
  /** A shell command that must succeed. */
  readyCmd?: string;
  /** Modules to import, or code to run. */
  warmup?: string | string[];
}

export interface SpawnArguments {
  snapshotTag: string;
  /** 1. */
  n?: number;
  perChildNetns?: boolean;
  memoryLimitMib?: number;
  prewarm?: boolean;
  liveFork?: boolean;
  hugepages?: boolean;
}

export interface WorkspaceArguments {
  name: string;
  snapshotTag: string;
  perChildNetns?: boolean;
  memoryLimitMib?: number;
}

export interface ExecArguments {
  /** 30. */
  timeoutSecs?: number;
  env?: Record<string, string>;
  cwd?: string;
  stdin?: string;
  outputLimit?: number;
  signal?: AbortSignal;
}

export interface EvalArguments {
  timeoutSecs?: number;
  signal?: AbortSignal;
}

export interface WaitArguments {
  /** 60. */
  timeoutSecs?: number;
  /** 200. */
  pollIntervalMs?: number;
  signal?: AbortSignal;
}

function pathOf(parts: string[], asked: Record<string, boolean | undefined> = {}): string {
  const query = Object.keys(asked).filter((name) => asked[name]).map((name) => `${name}=true`).join("&");
  return `/v1/${parts.map(encodeURIComponent).join("/")}${query && `?${query}`}`;
}

/**
 * A client of one controller. It holds no connection. Methods reject with a ControllerError when the controller
 * refuses, with Unreachable when nobody answers.
 */
export class Controller {
  readonly baseUrl: string;
  readonly token: string | undefined;
  readonly timeoutMs: number;
  readonly #address: Address;
  readonly #ca: string | Buffer | undefined;
  readonly #fetch: typeof fetch | undefined;

  constructor(options: ControllerOptions = {}) {
    this.#address = parseUrl(options.baseUrl ?? (process.env.FORKD_URL || DEFAULT_URL));
    this.baseUrl = this.#address.url;
    this.token = checkToken(options.token ?? process.env.FORKD_TOKEN);
    this.timeoutMs = options.timeoutMs ?? 60_000;
    this.#ca = options.ca;
    this.#fetch = options.fetch;
  }

  /** `{ok: true}`; needs no token. */
  health(): Promise<HealthInfo> {
    return this.#send({ method: "GET", path: "/healthz" });
  }

  version(): Promise<VersionInfo> {
    return this.#send({ method: "GET", path: "/version" });
  }

  /** In Prometheus' text format. */
  metrics(): Promise<string> {
    return this.#send({ method: "GET", path: "/metrics", asText: true });
  }

  listSnapshots(options: { memory?: boolean } = {}): Promise<SnapshotInfo[]> {
    return this.#send({ method: "GET", path: pathOf(["snapshots"], { memory: options.memory }) });
  }

  /** Boots a parent, warms it up and makes it a template. Paths are the controller's, not this program's. */
  createSnapshot(options: CreateSnapshotArguments): Promise<SnapshotInfo> {
    const bootWaitSecs = options.bootWaitSecs ?? 10;
    const body: SnapshotOptions = {
      tag: options.tag,
      image: options.image,
      kernel: options.kernel,
      rootfs: options.rootfs,
      initrd: options.initrd,
      rw: options.rw ?? false,
      tap: options.tap,
      boot_wait_secs: bootWaitSecs,
      mem_size_mib: options.memSizeMib,
      vcpus: options.vcpus,
      ready_cmd: options.readyCmd,
      warmup: options.warmup,
    };
    return this.#send({ method: "POST", path: pathOf(["snapshots"]), body, takesMs: bootWaitSecs * 1000 + WARM_MS });
  }

  /** Writes all that it stands for under another tag, which needs no other snapshot. */
  compactSnapshot(tag: string, to: string): Promise<SnapshotInfo> {
    return this.#send({ method: "POST", path: pathOf(["snapshots", tag, "compact"]), body: { to }, takesMs: WRITE_MS });
  }

  /** What lies on the disk of it, and which others need it there or are needed. */
  snapshotInfo(tag: string): Promise<SnapshotInfoDetail> {
    return this.#send({ method: "GET", path: pathOf(["snapshots", tag, "info"]) });
  }

  /** `cascade` deletes what descends from it too; `force` deletes it alone, whoever needs it. */
  async deleteSnapshot(tag: string, options: { cascade?: boolean; force?: boolean } = {}): Promise<void> {
    const { cascade, force } = options;
    await this.#send({ method: "DELETE", path: pathOf(["snapshots", tag], { cascade, force }) });
  }

  /** Forks n sandboxes, all or none. */
  spawnSandboxes(options: SpawnArguments): Promise<SandboxInfo[]> {
    const n = options.n ?? 1;
    const body: SpawnOptions = {
      snapshot_tag: options.snapshotTag,
      n,
      per_child_netns: options.perChildNetns ?? false,
      memory_limit_mib: options.memoryLimitMib,
      prewarm: options.prewarm,
      live_fork: options.liveFork,
      hugepages: options.hugepages,
    };
    return this.#send({ method: "POST", path: pathOf(["sandboxes"]), body, takesMs: n * FORK_MS });
  }

  /** With `memory` also memory_own_kib and its kin. */
  listSandboxes(options: { memory?: boolean } = {}): Promise<SandboxInfo[]> {
    return this.#send({ method: "GET", path: pathOf(["sandboxes"], { memory: options.memory }) });
  }

  getSandbox(sandboxId: string, options: { memory?: boolean } = {}): Promise<SandboxInfo> {
    return this.#send({ method: "GET", path: pathOf(["sandboxes", sandboxId], { memory: options.memory }) });
  }

  /** The sandbox is gone when this resolves. */
  async killSandbox(sandboxId: string): Promise<void> {
    await this.#send({ method: "DELETE", path: pathOf(["sandboxes", sandboxId]) });
  }

  /** Lets a sandbox go on that stood still because the disk was full. */
  resumeSandbox(sandboxId: string): Promise<SandboxInfo> {
    return this.#send({ method: "POST", path: pathOf(["sandboxes", sandboxId, "resume"]) });
  }

  /**
   * Makes the whole state of a running sandbox, memory and disk, a snapshot of its own; the sandbox goes on. Its `tag`
   * can be spawned from like any other.
   */
  branchSandbox(sandboxId: string, options: BranchOptions = {}): Promise<SnapshotInfo> {
    const body: BranchOptions = {
      tag: options.tag,
      mode: options.mode,
      diff: options.mode === undefined && options.diff ? true : undefined,
      measure_diff: options.measure_diff || undefined,
      wait: options.wait === false ? false : undefined,
      parent_tag: options.parent_tag,
    };
    return this.#send({ method: "POST", path: pathOf(["sandboxes", sandboxId, "branch"]), body, takesMs: WRITE_MS });
  }

  /** Runs a program. One that fails, is not found or runs out of time is an answer, and no error. */
  execCommand(sandboxId: string, args: string[], options: ExecArguments = {}): Promise<ExecResult> {
    const seconds = options.timeoutSecs ?? 30;
    const body: ExecOptions = {
      args,
      timeout_secs: seconds,
      env: options.env,
      cwd: options.cwd,
      stdin: options.stdin,
      output_limit: options.outputLimit,
    };
    const path = pathOf(["sandboxes", sandboxId, "exec"]);
    return this.#send({ method: "POST", path, body, takesMs: seconds * 1000, signal: options.signal });
  }

  /** Runs code in the guest's warm interpreter, whose names last. An exception there is in `error`. */
  evalCode(sandboxId: string, code: string, options: EvalArguments = {}): Promise<EvalResult> {
    const { timeoutSecs, signal } = options;
    const takesMs = timeoutSecs === undefined ? EVAL_MS : timeoutSecs * 1000;
    const body = { code, timeout_secs: timeoutSecs };
    return this.#send({ method: "POST", path: pathOf(["sandboxes", sandboxId, "eval"]), body, takesMs, signal });
  }

  pingSandbox(sandboxId: string): Promise<PingResult> {
    return this.#send({ method: "POST", path: pathOf(["sandboxes", sandboxId, "ping"]) });
  }

  /**
   * Looks into a file of the guest until `marker` stands in it. It need not exist yet. The whole file is searched each
   * time: a log may grow by more than any tail of it between two looks.
   */
  async waitForText(sandboxId: string, path: string, marker: string, options: WaitArguments = {}): Promise<TextResult> {
    if (marker.includes("\n")) throw new TypeError("a marker is a part of one line");
    const script = 'grep -qF -e "$2" -- "$1" 2>/dev/null; found=$?; tail -c 256 -- "$1" 2>/dev/null; exit $found';
    const args = ["sh", "-c", script, "sh", path, marker];
    const began = performance.now();
    const ends = began + (options.timeoutSecs ?? 60) * 1000;
    for (;;) {
      const seen = await this.execCommand(sandboxId, args, { timeoutSecs: 5, signal: options.signal });
      if (seen.exit_code === 127)
        throw new ForkdError(`sandbox ${sandboxId} has no sh and grep to look with: ${seen.stderr.trim()}`);
      const now = performance.now();
      if (seen.exit_code === 0 || now >= ends)
        return { found: seen.exit_code === 0, elapsed_ms: Math.trunc(now - began), last_excerpt: seen.stdout };
      await new Promise((resolve) => setTimeout(resolve, options.pollIntervalMs ?? 200));
    }
  }

  listWorkspaces(): Promise<WorkspaceInfo[]> {
    return this.#send({ method: "GET", path: pathOf(["workspaces"]) });
  }

  /** A sandbox with a name, `live_sandbox_id`, that can be put away and taken up again. */
  createWorkspace(options: WorkspaceArguments): Promise<WorkspaceInfo> {
    const body: WorkspaceOptions = {
      name: options.name,
      snapshot_tag: options.snapshotTag,
      per_child_netns: options.perChildNetns ?? false,
      memory_limit_mib: options.memoryLimitMib,
    };
    return this.#send({ method: "POST", path: pathOf(["workspaces"]), body, takesMs: FORK_MS });
  }

  getWorkspace(name: string): Promise<WorkspaceInfo> {
    return this.#send({ method: "GET", path: pathOf(["workspaces", name]) });
  }

  /** Keeps its state and ends its sandbox. */
  suspendWorkspace(name: string, options: { diff?: boolean } = {}): Promise<WorkspaceInfo> {
    const body = { diff: options.diff || undefined };
    return this.#send({ method: "POST", path: pathOf(["workspaces", name, "suspend"]), body, takesMs: WRITE_MS });
  }

  /** Goes on in a new sandbox, where the last one was suspended. */
  resumeWorkspace(name: string): Promise<WorkspaceInfo> {
    return this.#send({ method: "POST", path: pathOf(["workspaces", name, "resume"]), takesMs: WRITE_MS });
  }

  /** Its sandbox and its kept state end with it. */
  async deleteWorkspace(name: string): Promise<void> {
    await this.#send({ method: "DELETE", path: pathOf(["workspaces", name]) });
  }

  /** Sandboxes for the length of a function: they are killed when it is over, those aside that are gone already. */
  async spawned<T>(options: SpawnArguments, use: (sandboxes: SandboxInfo[]) => T | Promise<T>): Promise<T> {
    const made = await this.spawnSandboxes(options);
    try {
      return await use(made);
    } finally {
      await this.#killAll(made);
    }
  }

  /** A branch for the length of a function: it is deleted when that is over. */
  async branched<T>(
    sandboxId: string,
    options: BranchOptions,
    use: (snapshot: SnapshotInfo) => T | Promise<T>,
  ): Promise<T> {
    const made = await this.branchSandbox(sandboxId, options);
    try {
      return await use(made);
    } finally {
      await this.deleteSnapshot(made.tag).catch(unlessGone);
    }
  }

  async #killAll(sandboxes: SandboxInfo[]): Promise<void> {
    const ends = await Promise.allSettled(sandboxes.map(({ id }) => this.killSandbox(id).catch(unlessGone)));
    for (const end of ends) if (end.status === "rejected") throw end.reason;
  }

  async #send<T>(call: Call): Promise<T> {
    const wire = {
      address: this.#address,
      token: this.token,
      timeoutMs: this.timeoutMs,
      ca: this.#ca,
      fetch: this.#fetch,
    };
    return (await send(wire, call)) as T;
  }
}

function unlessGone(error: unknown): void {
  if (!(error instanceof NotFound)) throw error;
}
