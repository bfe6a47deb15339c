/** A real controller at FORKD_URL with real VMs, whose bare-metal guest answers exec and eval as far as it goes. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";

import * as forkd from "forkd";
import { Controller, Sandbox } from "forkd";

import { rejected } from "./server.js";

const controller = new Controller();
const bare = { snapshotTag: "py" };

before(async () => {
  await controller.createSnapshot({ tag: "py", kernel: process.env.FORKD_TEST_KERNEL!, memSizeMib: 64 });
});
after(() => controller.deleteSnapshot("py"));

test("health, version and metrics", async () => {
  assert.deepEqual(await controller.health(), { ok: true });
  assert.equal((await controller.version()).api, "v1");
  assert.match(await controller.metrics(), /^forkd_sandboxes_active 0$/m);
});

test("snapshots are made, listed and deleted", async () => {
  const kernel = process.env.FORKD_TEST_KERNEL!;
  const made = await controller.createSnapshot({ tag: "other", kernel, memSizeMib: 64, warmup: ["json"] });
  assert.ok(made.tag === "other" && made.bootable && made.status === "ready", JSON.stringify(made));
  assert.deepEqual((await controller.listSnapshots()).map(({ tag }) => tag), ["other", "py"]);
  const error = await rejected(forkd.BadRequest, controller.createSnapshot({ tag: "other", kernel }));
  assert.match(error.message, /HTTP 400: .*other/);
  await controller.deleteSnapshot("other");
  assert.match((await rejected(forkd.NotFound, controller.deleteSnapshot("other"))).reason, /snapshot other not found/);
});

test("sandboxes are spawned, listed, asked after and killed", async () => {
  const made = await controller.spawnSandboxes({ ...bare, n: 3 });
  const byId = (a: forkd.SandboxInfo, b: forkd.SandboxInfo) => (a.id < b.id ? -1 : 1);
  assert.deepEqual(await controller.listSandboxes(), [...made].sort(byId));
  const [one] = made as [forkd.SandboxInfo];
  assert.deepEqual(await controller.getSandbox(one.id), one);
  assert.ok((await controller.getSandbox(one.id, { memory: true })).memory_own_kib! > 0);
  await controller.killSandbox(one.id);
  const error = await rejected(forkd.NotFound, controller.getSandbox(one.id));
  assert.ok(error.message.includes(`HTTP 404: sandbox ${one.id} not found`), error.message);
  await rejected(forkd.NotFound, controller.resumeSandbox(one.id));
  await Promise.all(made.slice(1).map(({ id }) => controller.killSandbox(id)));
  assert.deepEqual(await controller.listSandboxes(), []);
  await rejected(forkd.NotFound, controller.spawnSandboxes({ snapshotTag: "none" }));
});

test("commands end as they did", () =>
  Sandbox.with(bare, async (sandbox) => {
    assert.deepEqual(await sandbox.exec(["echo", "a", "b"]), { stdout: "a b\n", stderr: "", exit_code: 0 });
    assert.equal((await sandbox.exec(["exit", "7"])).exit_code, 7);
    assert.equal((await sandbox.exec(["cat"], { stdin: "in\n" })).stdout, "in\n");
    assert.equal((await sandbox.exec(["none-such"])).exit_code, 127);
    assert.equal((await sandbox.exec(["spew", "5000"], { outputLimit: 10 })).stdout_truncated, true);
    const late = await sandbox.exec(["sleep", "600"], { timeoutSecs: 1 });
    assert.ok(late.exit_code === 124 && late.timed_out, JSON.stringify(late));
    await rejected(forkd.BadRequest, sandbox.exec([]));
  }));

test("a body that is too large is told as such", async () => {
  const call = controller.evalCode("sb-none", "x".repeat(4 << 20));
  assert.equal((await rejected(forkd.ControllerError, call)).status, 413);
});

test("evals give the value or the error", () =>
  Sandbox.with(bare, async (sandbox) => {
    assert.deepEqual(await controller.evalCode(sandbox.id, "6 * 7"), { result: "42", error: null, exit_code: 0 });
    assert.equal(await sandbox.eval("6 * 7"), "42");
    await assert.rejects(sandbox.eval("print()"), /eval error: /);
    assert.equal((await sandbox.ping()).pong, true);
  }));

test("a sandbox of one's own ends, whatever its function does, and once", async () => {
  await assert.rejects(
    Sandbox.with(bare, () => {
      throw new RangeError("mine");
    }),
    /mine/,
  );
  const sandbox = await Sandbox.create(bare);
  await controller.killSandbox(sandbox.id);
  await sandbox.kill();
  await sandbox.kill();
  await controller.spawned({ ...bare, n: 3 }, async (made) => controller.killSandbox(made[1]!.id));
  assert.deepEqual(await controller.listSandboxes(), []);
});

test("a guest without a shell is told when a text is waited for", () =>
  Sandbox.with(bare, async ({ id }) => {
    const error = await rejected(forkd.ForkdError, controller.waitForText(id, "/log", "x"));
    assert.match(error.message, /no sh and grep/);
  }));

test("a branch has what its source had at that moment", () =>
  Sandbox.with(bare, async (source) => {
    const memory = async (id: string, ...words: string[]) =>
      (await controller.execCommand(id, ["mem", ...words])).stdout.trim();
    await memory(source.id, "write", "0x1800000", "0x7");
    const tag = await controller.branched(source.id, { tag: "point" }, async (point) => {
      assert.ok(point.branched_from === source.id && point.pause_us!.total > 0, JSON.stringify(point));
      await memory(source.id, "write", "0x1800000", "0x8");
      await controller.spawned({ snapshotTag: point.tag, n: 2 }, async (forks) => {
        for (const { id } of forks) assert.equal(await memory(id, "read", "0x1800000"), "0x7");
      });
      await rejected(forkd.Conflict, source.branch({ tag: "point" }));
      return point.tag;
    });
    assert.equal(await memory(source.id, "read", "0x1800000"), "0x8");
    await rejected(forkd.NotFound, controller.deleteSnapshot(tag));
  }));

test("a diff names its parent and can be made whole", async () => {
  await Sandbox.with(bare, async (source) => {
    await source.exec(["mem", "write", "0x1800000", "0x7"]);
    await source.branch({ tag: "point", diff: true });
  });
  assert.deepEqual((await controller.snapshotInfo("point")).ancestors, ["py"]);
  assert.equal((await controller.compactSnapshot("point", "whole")).branched_from, "compact:point");
  const said = await Sandbox.with({ snapshotTag: "whole" }, (box) => box.exec(["mem", "read", "0x1800000"]));
  assert.equal(said.stdout, "0x7\n");
  await rejected(forkd.Conflict, controller.deleteSnapshot("py"));
  await Promise.all(["point", "whole"].map((tag) => controller.deleteSnapshot(tag)));
});

test("a workspace is put away and taken up again", async () => {
  const made = await controller.createWorkspace({ name: "desk", ...bare });
  assert.deepEqual(await controller.listWorkspaces(), [await controller.getWorkspace("desk")]);
  await controller.execCommand(made.live_sandbox_id!, ["mem", "write", "0x1800000", "0x7"]);
  assert.equal((await controller.suspendWorkspace("desk")).status, "suspended");
  assert.deepEqual(await controller.listSandboxes(), []);
  const { live_sandbox_id: id } = await controller.resumeWorkspace("desk");
  assert.equal((await controller.execCommand(id!, ["mem", "read", "0x1800000"])).stdout, "0x7\n");
  await controller.deleteWorkspace("desk");
  await rejected(forkd.NotFound, controller.getWorkspace("desk"));
});

test("a hundred at once", () =>
  controller.spawned({ ...bare, n: 100 }, async (sandboxes) => {
    const answers = await Promise.all(sandboxes.map(({ id }, i) => controller.evalCode(id, `${i} * 2`)));
    assert.deepEqual(answers.map(({ result }) => Number(result)), sandboxes.map((_, i) => 2 * i));
  }));

test("every example of the README runs", async (context) => {
  const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
  const said: string[] = [];
  context.mock.method(console, "log", (...words: unknown[]) => said.push(words.join(" ")));
  let count = 0;
  for (const [, example] of readme.matchAll(/^```ts\n(.*?)^```$/gms)) {
    // Beside this file, so that it finds the package by name.
    const file = new URL(`example-${++count}.js`, import.meta.url);
    writeFileSync(file, example!);
    await import(file.href);
  }
  assert.deepEqual(said, ["0 1 4 9 16 25 36 49 64 81", "3", "42", "3", "sandbox sb-none not found"]);
  await controller.deleteSnapshot("best");
});
