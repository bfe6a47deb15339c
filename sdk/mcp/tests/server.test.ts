/** The server as an agent's program starts it, asked by the protocol's own client; the controller is a real one. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import type { CallToolResult } from "@modelcontextprotocol/sdk/types.js";
import { Controller } from "forkd";

const PROGRAM = fileURLToPath(new URL("../dist/main.js", import.meta.url));

type Fields = Record<string, any>;

async function connected(env: Record<string, string>): Promise<Client> {
  const client = new Client({ name: "test", version: "1" });
  const known = { PATH: process.env.PATH!, ...env };
  await client.connect(new StdioClientTransport({ command: process.execPath, args: [PROGRAM], env: known }));
  return client;
}

let client: Client;
before(async () => {
  client = await connected({ FORKD_URL: process.env.FORKD_URL! });
});
after(() => client.close());

async function call(name: string, args: Fields = {}, of = client): Promise<CallToolResult> {
  return (await of.callTool({ name, arguments: args })) as CallToolResult;
}

function textOf(result: CallToolResult): string {
  const [content] = result.content;
  assert.equal(content!.type, "text");
  return (content as { text: string }).text;
}

/** What a tool answers, which must be the same as text and as structure. */
async function told(name: string, args: Fields = {}, of = client): Promise<any> {
  const result = await call(name, args, of);
  assert.ok(!result.isError, textOf(result));
  const value = JSON.parse(textOf(result));
  assert.deepEqual(result.structuredContent, Array.isArray(value) ? { result: value } : value);
  return value;
}

async function refused(name: string, args: Fields, words: RegExp): Promise<void> {
  const result = await call(name, args);
  assert.equal(result.isError, true);
  assert.match(textOf(result), words);
}

/** The snapshot and the sandboxes of a case, and their end. */
async function within(use: (sandboxes: Fields[]) => Promise<void>): Promise<void> {
  await told("create_snapshot", { tag: "bare", kernel: process.env.FORKD_TEST_KERNEL!, mem_size_mib: 64 });
  const sandboxes = await told("spawn_sandboxes", { snapshot_tag: "bare", n: 2 });
  try {
    await use(sandboxes);
  } finally {
    for (const { id } of await told("list_sandboxes")) await told("kill_sandbox", { sandbox_id: id });
    const controller = new Controller();
    for (const { tag } of await controller.listSnapshots()) await controller.deleteSnapshot(tag);
  }
}

test("the tools are the eleven, with the arguments agents know", async () => {
  const expected: Record<string, [needed: string[], other: string[]]> = {
    list_snapshots: [[], []],
    create_snapshot: [["tag"], ["kernel", "rootfs", "rw", "tap", "boot_wait_secs"]],
    spawn_sandboxes: [
      ["snapshot_tag"],
      ["n", "per_child_netns", "memory_limit_mib", "prewarm", "live_fork"],
    ],
    branch_sandbox: [["sandbox_id"], ["tag", "diff", "measure_diff", "mode", "wait"]],
    wait_for_text: [["sandbox_id", "path", "marker"], ["timeout_secs", "poll_interval_ms"]],
    list_sandboxes: [[], []],
    get_sandbox: [["sandbox_id"], []],
    exec_command: [["sandbox_id", "args"], ["timeout_secs"]],
    eval_code: [["sandbox_id", "code"], []],
    ping_sandbox: [["sandbox_id"], []],
    kill_sandbox: [["sandbox_id"], []],
  };
  const { tools } = await client.listTools();
  assert.deepEqual(tools.map(({ name }) => name).sort(), Object.keys(expected).sort());
  for (const { name, description, inputSchema } of tools) {
    const [needed, other] = expected[name]!;
    assert.ok(description, name);
    assert.deepEqual([...(inputSchema.required ?? [])].sort(), [...needed].sort(), name);
    for (const argument of [...needed, ...other]) assert.ok(inputSchema.properties?.[argument], `${name}: ${argument}`);
  }
  assert.match(client.getInstructions()!, /branch_sandbox/);
});

test("sandboxes are spawned, looked at and killed", () =>
  within(async ([one, other]) => {
    assert.equal((await told("list_snapshots"))[0].tag, "bare");
    assert.deepEqual((await told("list_sandboxes")).map(({ id }: Fields) => id), [one!.id, other!.id].sort());
    assert.equal((await told("get_sandbox", { sandbox_id: one!.id })).id, one!.id);
    assert.equal((await told("ping_sandbox", { sandbox_id: one!.id })).pong, true);
    assert.deepEqual(await told("kill_sandbox", { sandbox_id: one!.id }), { id: one!.id, killed: true });
    await refused("get_sandbox", { sandbox_id: one!.id }, new RegExp(`HTTP 404: sandbox ${one!.id} not found`));
  }));

test("commands and code run in a sandbox", () =>
  within(async ([one]) => {
    const sandbox_id = one!.id;
    const done = await told("exec_command", { sandbox_id, args: ["echo", "a", "b"] });
    assert.deepEqual(done, { stdout: "a b\n", stderr: "", exit_code: 0 });
    assert.equal((await told("exec_command", { sandbox_id, args: ["sleep", "600"], timeout_secs: 1 })).timed_out, true);
    assert.deepEqual(await told("eval_code", { sandbox_id, code: "6 * 7" }), {
      result: "42",
      error: null,
      exit_code: 0,
    });
    await refused("exec_command", { sandbox_id, args: [] }, /HTTP 400: /);
    await refused("wait_for_text", { sandbox_id, path: "/log", marker: "x" }, /no sh and grep/);
  }));

test("a branch is spawned from like any snapshot", () =>
  within(async ([source]) => {
    const exec = async (sandbox_id: string, ...args: string[]) =>
      (await told("exec_command", { sandbox_id, args })).stdout.trim();
    await exec(source!.id, "mem", "write", "0x1800000", "0x7");
    const branch = await told("branch_sandbox", { sandbox_id: source!.id, tag: "point" });
    assert.equal(branch.branched_from, source!.id);
    for (const { id } of await told("spawn_sandboxes", { snapshot_tag: "point", n: 2 }))
      assert.equal(await exec(id, "mem", "read", "0x1800000"), "0x7");
    await refused("branch_sandbox", { sandbox_id: source!.id, tag: "point" }, /HTTP 409: .*point/);
  }));

test("ten ideas are tried from one point, and the best is kept, as the README says", () =>
  within(async ([source]) => {
    await told("branch_sandbox", { sandbox_id: source!.id, tag: "start" });
    const tries: Fields[] = await told("spawn_sandboxes", { snapshot_tag: "start", n: 10 });
    const attempt = async ({ id }: Fields, idea: number) =>
      Number((await told("eval_code", { sandbox_id: id, code: `${idea} * (6 - ${idea})` })).result);
    const scores = await Promise.all(tries.map(attempt));
    const best = scores.indexOf(Math.max(...scores));
    assert.equal(best, 3);
    assert.equal((await told("branch_sandbox", { sandbox_id: tries[best]!.id, tag: "best" })).parent_tag, "start");
    await Promise.all(tries.map(({ id }) => told("kill_sandbox", { sandbox_id: id })));
    assert.equal((await told("spawn_sandboxes", { snapshot_tag: "best" })).length, 1);
  }));

test("arguments of a wrong type are refused before the controller hears of them", async () => {
  await refused("spawn_sandboxes", { snapshot_tag: "bare", n: "many" }, /\bn\b/);
  await refused("get_sandbox", {}, /sandbox_id/);
});

/** A controller that answers from a list, and keeps what it was asked. */
async function scripted(
  answers: [status: number, body: object][],
  use: (client: Client, asked: Fields[]) => Promise<void>,
): Promise<void> {
  const asked: Fields[] = [];
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    asked.push({ line: `${request.method} ${request.url}`, token: request.headers.authorization, ...JSON.parse(body) });
    const [status, answer] = answers.length > 1 ? answers.shift()! : answers[0]!;
    response.writeHead(status).end(JSON.stringify(answer));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const scriptedClient = await connected({ FORKD_URL: url, FORKD_TOKEN: "a token" });
  try {
    await use(scriptedClient, asked);
  } finally {
    await scriptedClient.close();
    server.close();
  }
}

test("a text is waited for, and found", () => {
  const look = (stdout: string, exit_code: number): [number, object] => [200, { stdout, stderr: "", exit_code }];
  return scripted([look("", 2), look("not yet", 1), look("READY", 0)], async (of, asked) => {
    const args = { sandbox_id: "sb-1", path: "/a log", marker: "READY", poll_interval_ms: 1 };
    const seen = await told("wait_for_text", args, of);
    assert.deepEqual(seen, { found: true, elapsed_ms: seen.elapsed_ms, last_excerpt: "READY" });
    assert.equal(asked.length, 3);
    assert.deepEqual([asked[0]!.line, asked[0]!.token], ["POST /v1/sandboxes/sb-1/exec", "Bearer a token"]);
    assert.deepEqual(asked[0]!.args.slice(-2), ["/a log", "READY"]);
  });
});

test("a text that does not come is told", () =>
  scripted([[200, { stdout: "other", stderr: "", exit_code: 1 }]], async (of) => {
    const args = { sandbox_id: "sb-1", path: "/log", marker: "x", timeout_secs: 0.05, poll_interval_ms: 1 };
    const seen = await told("wait_for_text", args, of);
    assert.ok(!seen.found && seen.elapsed_ms >= 50 && seen.last_excerpt === "other", JSON.stringify(seen));
  }));

test("the limit nobody asked for is left out where no limit can be kept, one asked for is not", () => {
  const error = { error: "memory_limit_mib cannot be kept on this host: no memory controller" };
  return scripted([[500, error], [201, []], [500, error]], async (of, asked) => {
    assert.deepEqual(await told("spawn_sandboxes", { snapshot_tag: "py" }, of), []);
    assert.deepEqual(asked.map(({ memory_limit_mib }) => memory_limit_mib), [256, undefined]);
    const result = await call("spawn_sandboxes", { snapshot_tag: "py", memory_limit_mib: 64 }, of);
    assert.ok(result.isError && textOf(result).includes("cannot be kept"), textOf(result));
    assert.equal(asked.at(-1)!.memory_limit_mib, 64);
  });
});

test("a controller that is not there is told by the tool, and the server lives on", async () => {
  const lonely = await connected({ FORKD_URL: "unix:/nonexistent/forkd" });
  try {
    for (let i = 0; i < 2; i++) {
      const result = await call("list_snapshots", {}, lonely);
      assert.ok(result.isError && textOf(result).includes("no controller listens there"), textOf(result));
    }
  } finally {
    await lonely.close();
  }
});

test("the README's example of a configuration starts the server", async () => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const { command, args, env } = JSON.parse(/^```json\n(.*?)^```$/ms.exec(readme)![1]!).mcpServers.forkd;
  assert.equal(command, "node");
  assert.ok(args[0].endsWith("sdk/mcp/dist/main.js"));
  assert.deepEqual(Object.keys(env), ["FORKD_URL"]);
});
