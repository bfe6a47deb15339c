/**
 * forkd's sandboxes as tools. Each tool is one method of the Controller; names, arguments and defaults are those that
 * agents know from forkd's first MCP server.
 *
 * An answer is given twice, as the protocol wants it: as JSON text for the model, and as structured content for the
 * program around it, where a list stands in the field `result`. What the controller refuses is an answer marked as an
 * error, with its words, so that the model can mend its call.
 */
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import type { CallToolResult } from "@modelcontextprotocol/sdk/types.js";
import { type Controller, ControllerError, type SandboxInfo, type SpawnArguments, VERSION } from "forkd";
import { z } from "zod";

const INSTRUCTIONS = `Sandboxes are small virtual machines, forked within milliseconds from a snapshot of a warm parent.
list_snapshots shows what can be forked, spawn_sandboxes forks it, exec_command and eval_code work in one, and
kill_sandbox ends it. branch_sandbox makes the present state of a sandbox a snapshot: to try several things from one
point, branch there, spawn as many sandboxes from the branch, and keep the best.`;

/** MiB, where the caller says nothing of a limit. */
const MEMORY_LIMIT = 256;

const sandboxId = z.string().describe("The id of a sandbox, as spawn_sandboxes and list_sandboxes tell it");
const READS = { readOnlyHint: true };
const ADDS = { readOnlyHint: false, destructiveHint: false };
const CHANGES = { readOnlyHint: false, destructiveHint: true };

function answer(value: object): CallToolResult {
  const structuredContent = Array.isArray(value) ? { result: value } : { ...value };
  return { content: [{ type: "text", text: JSON.stringify(value) }], structuredContent };
}

/** Not every host can limit memory; a limit that nobody asked for is then left out. */
async function spawnLimited(controller: Controller, options: SpawnArguments): Promise<SandboxInfo[]> {
  try {
    return await controller.spawnSandboxes({ ...options, memoryLimitMib: MEMORY_LIMIT });
  } catch (error) {
    if (error instanceof ControllerError && error.reason.includes("memory_limit_mib cannot be kept"))
      return controller.spawnSandboxes(options);
    throw error;
  }
}

function addSnapshotTools(server: McpServer, controller: Controller): void {
  server.registerTool(
    "list_snapshots",
    { description: "Lists the snapshots that sandboxes can be spawned from, branches included.", annotations: READS },
    async () => answer(await controller.listSnapshots()),
  );

  server.registerTool(
    "create_snapshot",
    {
      description:
        "Boots a virtual machine of a guest image, or of a kernel and a root file system, waits until it is ready, " +
        "and makes it a snapshot. Paths are those of the controller's host.",
      inputSchema: {
        tag: z.string().describe("The new snapshot's name"),
        kernel: z.string().optional().describe("Path of a kernel"),
        rootfs: z.string().optional().describe("Path of an ext4 image with forkd's agent"),
        rw: z.boolean().default(false).describe("Accepted; each sandbox has a writable disk of its own anyway"),
        tap: z.string().nullable().optional().describe("A network device of the host"),
        boot_wait_secs: z.number().int().default(10).describe("How long booting may take, at most 60"),
        image: z.string().optional().describe("The name of a guest image, instead of kernel and rootfs"),
        mem_size_mib: z.number().int().optional().describe("Memory; 512"),
        vcpus: z.number().int().optional().describe("1"),
        ready_cmd: z.string().optional().describe("A shell command that must succeed before the snapshot is made"),
        warmup: z
          .union([z.string(), z.array(z.string())])
          .optional()
          .describe("Python modules to import, or code to run, before the snapshot is made"),
      },
      annotations: ADDS,
    },
    async (a) =>
      answer(
        await controller.createSnapshot({
          tag: a.tag,
          kernel: a.kernel,
          rootfs: a.rootfs,
          image: a.image,
          rw: a.rw,
          tap: a.tap ?? undefined,
          bootWaitSecs: a.boot_wait_secs,
          memSizeMib: a.mem_size_mib,
          vcpus: a.vcpus,
          readyCmd: a.ready_cmd,
          warmup: a.warmup,
        }),
      ),
  );

  server.registerTool(
    "branch_sandbox",
    {
      description:
        "Makes the whole present state of a running sandbox, memory, processes and disk, a snapshot that " +
        "spawn_sandboxes can fork. The sandbox itself goes on.",
      inputSchema: {
        sandbox_id: sandboxId,
        tag: z.string().nullable().optional().describe("The snapshot's name; otherwise one is made up"),
        diff: z.boolean().default(false).describe('An older word for mode "diff"'),
        measure_diff: z.boolean().default(false).describe("Also tell what a diff would have held"),
        mode: z.enum(["full", "diff", "live"]).nullable().optional().describe("What is written; otherwise full"),
        wait: z.boolean().default(true).describe("false: answer as soon as the snapshot can be spawned from"),
      },
      annotations: ADDS,
    },
    async (a) =>
      answer(
        await controller.branchSandbox(a.sandbox_id, {
          tag: a.tag ?? undefined,
          diff: a.diff,
          measure_diff: a.measure_diff,
          mode: a.mode ?? undefined,
          wait: a.wait,
        }),
      ),
  );
}

function addSandboxTools(server: McpServer, controller: Controller): void {
  server.registerTool(
    "spawn_sandboxes",
    {
      description: "Forks n sandboxes from a snapshot, all or none, each with the state the snapshot was made in.",
      inputSchema: {
        snapshot_tag: z.string().describe("The tag of a snapshot, as list_snapshots tells it"),
        n: z.number().int().default(1).describe("How many, 1 to 1000"),
        per_child_netns: z.boolean().default(false).describe("A network namespace for each"),
        memory_limit_mib: z
          .number()
          .int()
          .nullable()
          .optional()
          .describe(`What each may use; otherwise ${MEMORY_LIMIT} where the host can limit it; null: no limit`),
        prewarm: z.boolean().default(false).describe("Accepted; changes nothing"),
        live_fork: z.boolean().default(false).describe("Accepted; changes nothing"),
      },
      annotations: ADDS,
    },
    async (a) => {
      const options: SpawnArguments = {
        snapshotTag: a.snapshot_tag,
        n: a.n,
        perChildNetns: a.per_child_netns,
        prewarm: a.prewarm || undefined,
        liveFork: a.live_fork || undefined,
      };
      if (a.memory_limit_mib === undefined) return answer(await spawnLimited(controller, options));
      return answer(await controller.spawnSandboxes({ ...options, memoryLimitMib: a.memory_limit_mib ?? undefined }));
    },
  );

  server.registerTool(
    "list_sandboxes",
    { description: "Lists the sandboxes that live.", annotations: READS },
    async () => answer(await controller.listSandboxes()),
  );

  server.registerTool(
    "get_sandbox",
    { description: "Tells about one sandbox.", inputSchema: { sandbox_id: sandboxId }, annotations: READS },
    async (a) => answer(await controller.getSandbox(a.sandbox_id)),
  );

  server.registerTool(
    "kill_sandbox",
    {
      description: "Ends a sandbox, with all that is in it. Snapshots made of it stay.",
      inputSchema: { sandbox_id: sandboxId },
      annotations: CHANGES,
    },
    async (a) => {
      await controller.killSandbox(a.sandbox_id);
      return answer({ id: a.sandbox_id, killed: true });
    },
  );
}

function addGuestTools(server: McpServer, controller: Controller): void {
  server.registerTool(
    "exec_command",
    {
      description:
        'Runs a program in a sandbox: ["python3", "-c", "print(2 + 2)"], or ["sh", "-c", "..."] for a line of shell. ' +
        "Answers stdout, stderr and exit_code: 127 where the program is not found, 124 where it ran out of time.",
      inputSchema: {
        sandbox_id: sandboxId,
        args: z.array(z.string()).describe("The program and its arguments, a word each"),
        timeout_secs: z.number().int().default(30),
      },
      annotations: CHANGES,
    },
    async (a, { signal }) =>
      answer(await controller.execCommand(a.sandbox_id, a.args, { timeoutSecs: a.timeout_secs, signal })),
  );

  server.registerTool(
    "eval_code",
    {
      description:
        "Runs Python in a sandbox's warm interpreter, which has imported what the snapshot was made with. Names last " +
        "from call to call. Answers the repr of the last expression in result, or a traceback in error.",
      inputSchema: { sandbox_id: sandboxId, code: z.string() },
      annotations: CHANGES,
    },
    async (a, { signal }) => answer(await controller.evalCode(a.sandbox_id, a.code, { signal })),
  );

  server.registerTool(
    "ping_sandbox",
    {
      description: "Asks the agent in a sandbox whether it is well, and about its interpreter.",
      inputSchema: { sandbox_id: sandboxId },
      annotations: READS,
    },
    async (a) => answer(await controller.pingSandbox(a.sandbox_id)),
  );

  server.registerTool(
    "wait_for_text",
    {
      description:
        "Waits until a text stands in a file of a sandbox, as READY in the log of what was started there. Answers " +
        "found, elapsed_ms and last_excerpt, the end of the file.",
      inputSchema: {
        sandbox_id: sandboxId,
        path: z.string().describe("The file; it need not exist yet"),
        marker: z.string().describe("The text, a part of one line"),
        timeout_secs: z.number().default(60),
        poll_interval_ms: z.number().int().default(200),
      },
      annotations: READS,
    },
    async (a, { signal }) =>
      answer(
        await controller.waitForText(a.sandbox_id, a.path, a.marker, {
          timeoutSecs: a.timeout_secs,
          pollIntervalMs: a.poll_interval_ms,
          signal,
        }),
      ),
  );
}

/** A server with all the tools, to be connected to a transport. */
export function makeServer(controller: Controller): McpServer {
  const server = new McpServer({ name: "forkd", version: VERSION }, { instructions: INSTRUCTIONS });
  addSnapshotTools(server, controller);
  addSandboxTools(server, controller);
  addGuestTools(server, controller);
  return server;
}
