/** The bodies of requests and answers, field for field as docs/api.md of forkd tells them. */

export interface HealthInfo {
  ok: boolean;
}

export interface VersionInfo {
  version: string;
  api: string;
}

/** How long a branch's source stood still, by what was done then. */
export interface PauseMicroseconds {
  kick: number;
  save: number;
  log: number;
  pages: number;
  resume: number;
  total: number;
}

export interface SnapshotInfo {
  tag: string;
  dir: string;
  created_at_unix: number;
  status: "writing" | "ready" | "failed";
  /** Whether sandboxes can be spawned from it now. */
  bootable: boolean;
  /** The sandbox it is a branch of, or `compact:TAG`. */
  branched_from?: string;
  /** What that sandbox was spawned from. */
  parent_tag?: string;
  mode?: BranchMode;
  pause_ms?: number;
  pause_us?: PauseMicroseconds;
  rounds?: number;
  pages_streamed?: number;
  pages_in_pause?: number;
  /** From the request until it could be spawned from. */
  ready_ms?: number;
  diff_ms?: number;
  diff_physical_bytes?: number;
  diff_logical_bytes?: number;
  /** While something is done about it. */
  stage?: "boot" | "warmup" | "freeze" | "write" | "load";
  /** How far it is written or loaded. */
  percent?: number;
  /** So far, while it is written. */
  written_bytes?: number;
  /** Why it failed. */
  warning?: string;
  /** These five where they were asked for. */
  cpu_ms?: number;
  memory_own_kib?: number | null;
  memory_pss_kib?: number | null;
  memory_charged_kib?: number;
  memory_image_kib?: number;
}

export interface SnapshotInfoDetail {
  tag: string;
  dir: string;
  created_at_unix: number;
  status: "writing" | "ready" | "failed";
  bootable: boolean;
  branched_from?: string;
  parent_tag?: string;
  mode?: BranchMode;
  pause_ms?: number;
  pause_us?: PauseMicroseconds;
  rounds?: number;
  pages_streamed?: number;
  pages_in_pause?: number;
  ready_ms?: number;
  diff_ms?: number;
  diff_physical_bytes?: number;
  diff_logical_bytes?: number;
  stage?: "boot" | "warmup" | "freeze" | "write" | "load";
  percent?: number;
  written_bytes?: number;
  warning?: string;
  /** The length of memory.bin; 0: it is not on the disk. */
  memory_logical_bytes: number;
  memory_physical_bytes: number;
  vmstate_bytes: number;
  content_hash?: string;
  parent_content_hash?: string;
  chain_depth: number;
  /** Root first. */
  ancestors: string[];
  /** The diffs to it. */
  dependents: string[];
}

export interface SandboxInfo {
  id: string;
  snapshot_tag: string;
  netns: string | null;
  guest_addr: string;
  created_at_unix: number;
  /** A process of the controller's host. */
  pid: number | null;
  memory_limit_mib: number | null;
  last_branch_memory_path: string | null;
  has_branched: boolean;
  branch_count: number;
  /** Why it stands still. */
  stalled?: string;
  /** These four where they were asked for. */
  cpu_ms?: number;
  memory_own_kib?: number | null;
  memory_pss_kib?: number | null;
  memory_charged_kib?: number;
}

export interface WorkspaceInfo {
  id: string;
  name: string;
  source_snapshot_tag: string;
  status: "running" | "suspended" | "stale";
  created_at_unix: number;
  last_active_unix: number;
  /** The snapshot that its last suspension made. */
  current_state_tag?: string;
  /** While it runs. */
  live_sandbox_id?: string;
  /** Of that snapshot, where it is on the disk. */
  last_branch_memory_path?: string;
}

export interface ExecResult {
  stdout: string;
  stderr: string;
  /** -N: killed by signal N; 127: not found; 124 with `timed_out`: out of time. */
  exit_code: number;
  timed_out?: boolean;
  stdout_truncated?: boolean;
  stderr_truncated?: boolean;
}

export interface EvalResult {
  /** The `repr` of the value. */
  result: string | null;
  /** The traceback. */
  error: string | null;
  exit_code: number;
  stdout?: string;
  stderr?: string;
  timed_out?: boolean;
  truncated?: boolean;
}

export interface PingResult {
  pong: boolean;
  numpy_version: string | null;
  pid: number;
  agent_lang: string;
  warmup_ready: boolean;
  [field: string]: unknown;
}

export interface TextResult {
  found: boolean;
  elapsed_ms: number;
  /** The last 256 bytes of the file. */
  last_excerpt: string;
}

export interface SnapshotOptions {
  tag: string;
  kernel?: string;
  rootfs?: string;
  initrd?: string;
  image?: string;
  rw?: boolean;
  tap?: string;
  boot_wait_secs?: number;
  mem_size_mib?: number;
  vcpus?: number;
  ready_cmd?: string;
  warmup?: string | string[];
}

export interface SpawnOptions {
  snapshot_tag: string;
  n?: number;
  per_child_netns?: boolean;
  memory_limit_mib?: number;
  prewarm?: boolean;
  live_fork?: boolean;
  hugepages?: boolean;
}

/** What is written: a self-contained image, or the pages that differ from the parent's. */
export type BranchMode = "full" | "diff" | "live";

export interface BranchOptions {
  /** Otherwise the controller makes one up. */
  tag?: string;
  mode?: BranchMode;
  /** An older word for `mode: "diff"`; where both are given, `mode` counts. */
  diff?: boolean;
  measure_diff?: boolean;
  /** false: the answer comes as soon as the snapshot can be spawned from, while it is still being written. */
  wait?: boolean;
  parent_tag?: string;
}

export interface WorkspaceOptions {
  name: string;
  snapshot_tag: string;
  per_child_netns?: boolean;
  memory_limit_mib?: number;
}

export interface ExecOptions {
  args: string[];
  timeout_secs?: number;
  env?: Record<string, string>;
  cwd?: string;
  stdin?: string;
  output_limit?: number;
}
