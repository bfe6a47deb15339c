/** What is sent, and what becomes of bad answers and of none. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import https from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";

import * as forkd from "forkd";

import { CREATED, failing, rejected, serving } from "./server.js";

const { Controller } = forkd;
type Use = (controller: forkd.Controller) => Promise<unknown>;

/** [request line, body] of what a call sends. */
async function sent(use: Use): Promise<[string, unknown]> {
  return serving(CREATED, async ({ url, requests }) => {
    await use(new Controller({ baseUrl: url, token: "a token" }));
    assert.equal(requests.length, 1);
    const [head, body] = requests[0]!.split("\r\n\r\n", 2);
    assert.match(head!, /^authorization: Bearer a token$/im);
    return [head!.split("\r\n")[0]!.replace(/ HTTP\/1\.1$/, ""), body ? JSON.parse(body) : null];
  });
}

async function within<T>(use: (directory: string) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(path.join(tmpdir(), "forkd-test-"));
  try {
    return await use(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

test("each call sends what clients of API v1 send", async () => {
  const wanted: [Use, string, unknown][] = [
    [(c) => c.listSnapshots(), "GET /v1/snapshots", null],
    [(c) => c.deleteSnapshot("a"), "DELETE /v1/snapshots/a", null],
    [
      (c) => c.spawnSandboxes({ snapshotTag: "py" }),
      "POST /v1/sandboxes",
      { snapshot_tag: "py", n: 1, per_child_netns: false },
    ],
    [
      (c) => c.spawnSandboxes({ snapshotTag: "py", n: 3, memoryLimitMib: 64, prewarm: true, liveFork: true }),
      "POST /v1/sandboxes",
      { snapshot_tag: "py", n: 3, per_child_netns: false, memory_limit_mib: 64, prewarm: true, live_fork: true },
    ],
    [(c) => c.branchSandbox("sb-1"), "POST /v1/sandboxes/sb-1/branch", {}],
    [
      (c) => c.branchSandbox("sb-1", { tag: "t", diff: true }),
      "POST /v1/sandboxes/sb-1/branch",
      { tag: "t", diff: true },
    ],
    [
      (c) => c.branchSandbox("sb-1", { mode: "live", diff: true, wait: false }),
      "POST /v1/sandboxes/sb-1/branch",
      { mode: "live", wait: false },
    ],
    [
      (c) => c.branchSandbox("sb-1", { measure_diff: true, wait: true }),
      "POST /v1/sandboxes/sb-1/branch",
      { measure_diff: true },
    ],
    [(c) => c.execCommand("sb-1", ["true"]), "POST /v1/sandboxes/sb-1/exec", { args: ["true"], timeout_secs: 30 }],
    [(c) => c.evalCode("sb-1", "1"), "POST /v1/sandboxes/sb-1/eval", { code: "1" }],
    [(c) => c.pingSandbox("sb-1"), "POST /v1/sandboxes/sb-1/ping", null],
    [(c) => c.killSandbox("sb-1"), "DELETE /v1/sandboxes/sb-1", null],
  ];
  for (const [use, line, body] of wanted) assert.deepEqual(await sent(use), [line, body]);
});

test("each argument goes into its field", async () => {
  const wanted: [Use, string, unknown][] = [
    [
      (c) =>
        c.createSnapshot({
          tag: "a",
          kernel: "/k",
          rootfs: "/r",
          initrd: "/i",
          rw: true,
          tap: "tap0",
          bootWaitSecs: 20,
          memSizeMib: 64,
          vcpus: 2,
          readyCmd: "true",
          warmup: ["json"],
        }),
      "POST /v1/snapshots",
      {
        tag: "a",
        kernel: "/k",
        rootfs: "/r",
        initrd: "/i",
        rw: true,
        tap: "tap0",
        boot_wait_secs: 20,
        mem_size_mib: 64,
        vcpus: 2,
        ready_cmd: "true",
        warmup: ["json"],
      },
    ],
    [
      (c) => c.createSnapshot({ tag: "a", image: "python3" }),
      "POST /v1/snapshots",
      { tag: "a", image: "python3", rw: false, boot_wait_secs: 10 },
    ],
    [(c) => c.compactSnapshot("a", "b"), "POST /v1/snapshots/a/compact", { to: "b" }],
    [(c) => c.deleteSnapshot("a", { cascade: true }), "DELETE /v1/snapshots/a?cascade=true", null],
    [(c) => c.deleteSnapshot("a", { force: true }), "DELETE /v1/snapshots/a?force=true", null],
    [
      (c) => c.branchSandbox("sb-1", { mode: "diff", parent_tag: "py" }),
      "POST /v1/sandboxes/sb-1/branch",
      { mode: "diff", parent_tag: "py" },
    ],
    [
      (c) =>
        c.execCommand("sb-1", ["env"], { timeoutSecs: 5, env: { A: "b" }, cwd: "/tmp", stdin: "in", outputLimit: 9 }),
      "POST /v1/sandboxes/sb-1/exec",
      { args: ["env"], timeout_secs: 5, env: { A: "b" }, cwd: "/tmp", stdin: "in", output_limit: 9 },
    ],
    [
      (c) => c.evalCode("sb-1", "1", { timeoutSecs: 3 }),
      "POST /v1/sandboxes/sb-1/eval",
      { code: "1", timeout_secs: 3 },
    ],
    [
      (c) => c.createWorkspace({ name: "w", snapshotTag: "py", memoryLimitMib: 64 }),
      "POST /v1/workspaces",
      { name: "w", snapshot_tag: "py", per_child_netns: false, memory_limit_mib: 64 },
    ],
    [(c) => c.suspendWorkspace("w", { diff: true }), "POST /v1/workspaces/w/suspend", { diff: true }],
    [(c) => c.suspendWorkspace("w"), "POST /v1/workspaces/w/suspend", {}],
    [(c) => c.listSnapshots({ memory: true }), "GET /v1/snapshots?memory=true", null],
    [(c) => c.listSandboxes({ memory: true }), "GET /v1/sandboxes?memory=true", null],
    [(c) => c.getSandbox("sb-1", { memory: true }), "GET /v1/sandboxes/sb-1?memory=true", null],
    [(c) => c.getSandbox("../x?y#z"), "GET /v1/sandboxes/..%2Fx%3Fy%23z", null],
    [(c) => c.resumeSandbox("sb-1"), "POST /v1/sandboxes/sb-1/resume", null],
    [(c) => c.health(), "GET /healthz", null],
    [(c) => c.version(), "GET /version", null],
    [(c) => c.metrics(), "GET /metrics", null],
  ];
  for (const [use, line, body] of wanted) assert.deepEqual(await sent(use), [line, body]);
});

test("each status has its class and keeps the words", async () => {
  const classes = new Map<number, typeof forkd.ControllerError>([
    [400, forkd.BadRequest],
    [401, forkd.Unauthorized],
    [403, forkd.Forbidden],
    [404, forkd.NotFound],
    [409, forkd.Conflict],
    [500, forkd.ControllerError],
    [502, forkd.GuestFailed],
    [503, forkd.Unavailable],
  ]);
  const body = { error: "snapshot py is in use by sb-1" };
  for (const [status, kind] of classes)
    await serving(failing(status, JSON.stringify(body)), async ({ url }) => {
      const error = await rejected(kind, new Controller({ baseUrl: url }).deleteSnapshot("py"));
      assert.ok(error instanceof forkd.ControllerError && error instanceof forkd.ForkdError && error instanceof Error);
      assert.ok(error.message.includes(`HTTP ${status}: snapshot py is in use by sb-1`), error.message);
      assert.deepEqual([error.status, error.body, error.reason], [status, body, body.error]);
      assert.equal(error.url, `${url}/v1/snapshots/py`);
    });
});

test("an error that is no JSON is kept as it is", async () => {
  for (const [body, kept] of [["<html>gone</html>", "<html>gone</html>"], ["", {}]] as const)
    await serving(failing(502, body), async ({ url }) => {
      const error = await rejected(forkd.GuestFailed, new Controller({ baseUrl: url }).listSandboxes());
      assert.deepEqual(error.body, kept);
    });
});

test("bad answers are told as such", async () => {
  for (const answer of ["SSH-2.0-OpenSSH_9\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"])
    await serving(answer, async ({ url }) => {
      const error = await rejected(forkd.BadAnswer, new Controller({ baseUrl: url }).listSandboxes());
      assert.ok(error.message.includes(url));
    });
});

test("an answer cut short, and a closed connection, are no answer", async () => {
  for (const answer of ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[]"])
    await serving(answer, async ({ url }) => {
      await rejected(forkd.Unreachable, new Controller({ baseUrl: url }).listSandboxes());
    });
});

test("no answer in time is an error of its own, and a command is waited for as long as it may take", async () => {
  await serving(null, async ({ url }) => {
    const controller = new Controller({ baseUrl: url, timeoutMs: 100 });
    const error = await rejected(forkd.TimedOut, controller.listSandboxes());
    assert.ok(error instanceof forkd.Unreachable && error.message.includes("no answer to GET within 0.1 s"));
    const late = await rejected(forkd.TimedOut, controller.execCommand("sb-1", ["true"], { timeoutSecs: 1 }));
    assert.ok(late.message.includes("within 1.1 s"), late.message);
  });
});

test("a signal ends a call with its own reason", async () => {
  await serving(null, async ({ url }) => {
    const stop = new AbortController();
    const call = new Controller({ baseUrl: url }).evalCode("sb-1", "1", { signal: stop.signal });
    stop.abort(new Error("mine"));
    await assert.rejects(call, /^Error: mine$/);
    await assert.rejects(new Controller({ baseUrl: url }).evalCode("sb-1", "1", { signal: stop.signal }), /mine/);
  });
});

test("nobody there is told with the URL and what to do", () =>
  within(async (directory) => {
    const port = await serving(null, async ({ url }) => url);
    writeFileSync(path.join(directory, "controller.sock"), "");
    process.env.FORKD_STATE = directory;
    try {
      for (const url of [port, `unix:${directory}/none`]) {
        const error = await rejected(forkd.Unreachable, new Controller({ baseUrl: url }).listSandboxes());
        assert.ok(error.message.includes(url) && error.message.includes("no controller listens there"), error.message);
        assert.ok(error.message.includes(`unix:${directory}/controller.sock (FORKD_URL`), error.message);
      }
    } finally {
      delete process.env.FORKD_STATE;
    }
  }));

test("the socket of one's own lies beside the state", () =>
  within(async (directory) => {
    const controller = new Controller({ baseUrl: `unix:${directory}/none` });
    writeFileSync(path.join(directory, "controller.sock"), "");
    try {
      for (const [named, found] of [["", true], ["my.db", true], ["none/", false], ["none/my.db", false]] as const) {
        process.env.FORKD_STATE = path.join(directory, named);
        const { message } = await rejected(forkd.Unreachable, controller.listSandboxes());
        assert.equal(message.includes("controller.sock (FORKD_URL"), found, `${named}: ${message}`);
      }
    } finally {
      delete process.env.FORKD_STATE;
    }
  }));

test("URLs are read as written or refused", () => {
  assert.equal(new Controller({ baseUrl: "http://10.0.0.1/" }).baseUrl, "http://10.0.0.1");
  assert.equal(new Controller({ baseUrl: "unix:///run/forkd.sock" }).baseUrl, "unix:///run/forkd.sock");
  for (const url of ["ftp://x", "localhost:8889", "unix:", "http://", "http://x:port"])
    assert.throws(() => new Controller({ baseUrl: url }), TypeError, url);
});

test("the environment names controller and token", () => {
  const { FORKD_URL: before } = process.env;
  Object.assign(process.env, { FORKD_URL: "http://127.0.0.9:1/", FORKD_TOKEN: "from a file\n" });
  try {
    assert.deepEqual([new Controller().baseUrl, new Controller().token], ["http://127.0.0.9:1", "from a file"]);
    const told = new Controller({ baseUrl: "http://x", token: "other" });
    assert.deepEqual([told.baseUrl, told.token], ["http://x", "other"]);
    assert.equal(new Controller({ token: "" }).token, undefined);
    delete process.env.FORKD_URL;
    assert.equal(new Controller().baseUrl, "http://127.0.0.1:8889");
  } finally {
    delete process.env.FORKD_TOKEN;
    if (before) process.env.FORKD_URL = before;
  }
});

test("a token smuggles no header", () => {
  for (const token of ["a\r\nX-Evil: 1", "a\nb", "\u20ac"])
    assert.throws(() => new Controller({ token }), /no header can carry/);
});

test("a proxy's path goes before that of the request", async () => {
  const [line] = await serving(CREATED, async ({ url, requests }) => {
    await new Controller({ baseUrl: `${url}/forkd/` }).version();
    return requests;
  });
  assert.ok(line!.startsWith("GET /forkd/version HTTP/1.1\r\n"), line);
});

test("a socket is reached, also one with a path longer than an address", () =>
  within(async (directory) => {
    const long = path.join(directory, "d".repeat(120));
    mkdirSync(long);
    for (const [where, bound] of [[directory, path.join(directory, "http")], [long, "http"]] as const) {
      const before = process.cwd();
      process.chdir(where);
      try {
        await serving(
          CREATED,
          async () => assert.deepEqual(await new Controller({ baseUrl: `unix:${where}/http` }).version(), {}),
          bound,
        );
      } finally {
        process.chdir(before);
      }
    }
  }));

test("https is believed only with a certificate", (context) => {
  try {
    execFileSync("openssl", ["version"]);
  } catch {
    return context.skip("openssl, which makes the certificate, is not installed");
  }
  return within(async (directory) => {
    const [key, cert] = ["key", "cert"].map((name) => path.join(directory, name)) as [string, string];
    const subject = ["-subj", "/CN=forkd", "-addext", "subjectAltName=IP:127.0.0.1"];
    execFileSync(
      "openssl",
      ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2", ...subject],
      { stdio: "ignore" },
    );
    const ca = readFileSync(cert);
    const server = https.createServer({ key: readFileSync(key), cert: ca }, (_, response) => response.end("{}"));
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    try {
      const baseUrl = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
      assert.deepEqual(await new Controller({ baseUrl, ca }).version(), {});
      const error = await rejected(forkd.Unreachable, new Controller({ baseUrl }).version());
      assert.match(error.message, /certificate/);
    } finally {
      server.close();
    }
  });
});

test("a fetch of the caller's own is used", async () => {
  const asked: [string, string | undefined, unknown][] = [];
  const fake = async (url: string | URL | Request, init?: RequestInit) => {
    asked.push([String(url), init?.method, init?.body]);
    return new Response('{"error":"no"}', { status: 404 });
  };
  const controller = new Controller({ baseUrl: "http://x", fetch: fake as typeof fetch });
  await rejected(forkd.NotFound, controller.evalCode("sb-1", "1"));
  assert.deepEqual(asked, [["http://x/v1/sandboxes/sb-1/eval", "POST", '{"code":"1"}']]);
});

test("the version is that of forkd", () => assert.equal(forkd.VERSION, process.env.FORKD_VERSION));
