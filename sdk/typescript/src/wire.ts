/**
 * One request a connection, over TCP, TLS or a Unix socket. A connection of its own costs less than 0.2 ms on
 * one host; in return nothing goes stale, and no request is ever sent twice.
 *
 * Node's own `fetch` knows no Unix sockets and gives up after five minutes whatever it is told, so it is used only
 * where a caller brings one.
 */
import http from "node:http";
import https from "node:https";

import { type Address, ownSocket, shortPath } from "./address.js";
import { BadAnswer, controllerError, TimedOut, Unreachable } from "./errors.js";
import { VERSION } from "./version.js";

export interface Wire {
  address: Address;
  token: string | undefined;
  timeoutMs: number;
  ca: string | Buffer | undefined;
  fetch: typeof fetch | undefined;
}

export interface Call {
  method: "GET" | "POST" | "DELETE";
  path: string;
  body?: unknown;
  /** How long it may take by itself, on top of the client's timeout. */
  takesMs?: number;
  asText?: boolean;
  signal?: AbortSignal | undefined;
}

interface Answer {
  status: number;
  text: string;
}

/** A token as a header can carry it; one read from a file may end in a newline. */
export function checkToken(token: string | undefined): string | undefined {
  token = token?.trim();
  if (token && !/^[\x20-\x7e]+$/.test(token)) throw new TypeError("the token has characters that no header can carry");
  return token || undefined;
}

/** The answer, parsed. Rejects with the ControllerError of a status that is none of success. */
export async function send(wire: Wire, call: Call): Promise<unknown> {
  const url = wire.address.url + call.path;
  const waitMs = wire.timeoutMs + (call.takesMs ?? 0);
  const stop = new AbortController();
  const forward = () => stop.abort(call.signal?.reason);
  const timer = setTimeout(() => stop.abort(), waitMs);
  if (call.signal?.aborted) forward();
  call.signal?.addEventListener("abort", forward);
  let answer: Answer;
  try {
    answer = await (wire.fetch ? fetched : exchanged)(wire, call, url, stop.signal);
  } catch (error) {
    if (call.signal?.aborted) throw call.signal.reason;
    if (stop.signal.aborted)
      throw new TimedOut(`no answer to ${call.method} within ${waitMs / 1000} s`, url, { cause: error });
    throw unreachable(wire, url, error as Error);
  } finally {
    clearTimeout(timer);
    call.signal?.removeEventListener("abort", forward);
  }
  return judge(call, url, answer);
}

function judge(call: Call, url: string, { status, text }: Answer): unknown {
  if (status >= 300) throw controllerError(status, parseError(text), url);
  if (call.asText) return text;
  try {
    return text ? JSON.parse(text) : null;
  } catch (error) {
    throw new BadAnswer(`controller ${url}: the answer is no JSON: ${text.slice(0, 200)}`, { cause: error });
  }
}

function parseError(text: string): unknown {
  try {
    return text ? JSON.parse(text) : {};
  } catch {
    return text;
  }
}

function headersOf(wire: Wire, call: Call): Record<string, string> {
  return {
    accept: "application/json",
    "user-agent": `forkd-typescript/${VERSION}`,
    ...(wire.token && { authorization: `Bearer ${wire.token}` }),
    ...(call.body !== undefined && { "content-type": "application/json" }),
  };
}

async function fetched(wire: Wire, call: Call, url: string, signal: AbortSignal): Promise<Answer> {
  const body = call.body === undefined ? undefined : JSON.stringify(call.body);
  const response = await wire.fetch!(url, { method: call.method, headers: headersOf(wire, call), body, signal });
  return { status: response.status, text: await response.text() };
}

async function exchanged(wire: Wire, call: Call, url: string, signal: AbortSignal): Promise<Answer> {
  const { socket } = wire.address;
  const short = socket === undefined ? undefined : await shortPath(socket);
  try {
    return await request(wire, call, short ? `http://localhost${call.path}` : url, short?.path, signal);
  } finally {
    await short?.directory?.close();
  }
}

/** A body of more bytes is sent when the controller has said that it takes it. */
const ASK_FIRST = 1 << 20;

function request(wire: Wire, call: Call, url: string, socketPath: string | undefined, signal: AbortSignal) {
  const body = call.body === undefined ? "" : JSON.stringify(call.body);
  const headers = headersOf(wire, call);
  if (call.method === "POST") headers["content-length"] = String(Buffer.byteLength(body));
  const asks = Buffer.byteLength(body) > ASK_FIRST;
  // What is refused is answered before it was sent, and Node forgets an answer when its socket breaks under a body.
  if (asks) headers.expect = "100-continue";
  const options = { method: call.method, headers, agent: false as const, signal, socketPath, ca: wire.ca };
  return new Promise<Answer>((resolve, reject) => {
    const outgoing = (url.startsWith("https:") ? https : http).request(url, options, (incoming) => {
      const pieces: Buffer[] = [];
      incoming.on("data", (piece: Buffer) => pieces.push(piece));
      incoming.on("error", reject);
      incoming.on("end", () => resolve({ status: incoming.statusCode!, text: Buffer.concat(pieces).toString() }));
    });
    outgoing.on("error", reject);
    if (!asks) outgoing.end(body);
    else outgoing.on("continue", () => outgoing.end(body)).flushHeaders();
  });
}

function unreachable(wire: Wire, url: string, error: NodeJS.ErrnoException): Error {
  if (error.code?.startsWith("HPE_"))
    return new BadAnswer(`controller ${url}: the answer is no whole HTTP: ${error.message}`, { cause: error });
  let words = error.message || error.code || error.name;
  if (error.code === "ECONNREFUSED" || error.code === "ENOENT") {
    const own = ownSocket();
    words += ": no controller listens there";
    if (own && own !== wire.address.socket) words += `; forkd's own one is at unix:${own} (FORKD_URL, or baseUrl)`;
  }
  return new Unreachable(words, url, { cause: error });
}
