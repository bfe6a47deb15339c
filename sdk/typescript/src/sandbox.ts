import {
  Controller,
  type ControllerOptions,
  type EvalArguments,
  type ExecArguments,
  type SpawnArguments,
} from "./controller.js";
import { NotFound } from "./errors.js";
import type { BranchOptions, ExecResult, PingResult, SandboxInfo, SnapshotInfo } from "./types.js";

export type CreateOptions = Omit<SpawnArguments, "n"> & ControllerOptions;

/** One sandbox and the controller that has it. */
export class Sandbox {
  readonly id: string;
  #killed = false;

  constructor(
    private readonly controller: Controller,
    readonly info: SandboxInfo,
  ) {
    this.id = info.id;
  }

  /** Spawns one. */
  static async create(options: CreateOptions): Promise<Sandbox> {
    const controller = new Controller(options);
    const { snapshotTag, perChildNetns, memoryLimitMib, prewarm, liveFork, hugepages } = options;
    const [info] = await controller.spawnSandboxes({
      snapshotTag,
      perChildNetns,
      memoryLimitMib,
      prewarm,
      liveFork,
      hugepages,
    });
    return new Sandbox(controller, info!);
  }

  /** Spawns one for the length of a function. */
  static async with<T>(options: CreateOptions, use: (sandbox: Sandbox) => T | Promise<T>): Promise<T> {
    const sandbox = await Sandbox.create(options);
    try {
      return await use(sandbox);
    } finally {
      await sandbox.kill();
    }
  }

  exec(args: string[], options: ExecArguments = {}): Promise<ExecResult> {
    return this.controller.execCommand(this.id, args, options);
  }

  /** The value's `repr`. What the code raises is thrown, with its traceback. */
  async eval(code: string, options: EvalArguments = {}): Promise<string | null> {
    const { result, error } = await this.controller.evalCode(this.id, code, options);
    if (error) throw new Error(`eval error: ${error}`);
    return result;
  }

  ping(): Promise<PingResult> {
    return this.controller.pingSandbox(this.id);
  }

  branch(options: BranchOptions = {}): Promise<SnapshotInfo> {
    return this.controller.branchSandbox(this.id, options);
  }

  /** Does nothing where it is gone already. */
  async kill(): Promise<void> {
    if (this.#killed) return;
    try {
      await this.controller.killSandbox(this.id);
    } catch (error) {
      if (!(error instanceof NotFound)) throw error;
    }
    this.#killed = true;
  }
}
