export { Controller } from "./controller.js";
export type {
  ControllerOptions,
  CreateSnapshotArguments,
  EvalArguments,
  ExecArguments,
  SpawnArguments,
  WaitArguments,
  WorkspaceArguments,
} from "./controller.js";
export {
  BadAnswer,
  BadRequest,
  Conflict,
  ControllerError,
  Forbidden,
  ForkdError,
  GuestFailed,
  NotFound,
  TimedOut,
  Unauthorized,
  Unavailable,
  Unreachable,
} from "./errors.js";
export { type CreateOptions, Sandbox } from "./sandbox.js";
export type {
  BranchMode,
  BranchOptions,
  EvalResult,
  ExecOptions,
  ExecResult,
  HealthInfo,
  PauseMicroseconds,
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
export { VERSION } from "./version.js";
