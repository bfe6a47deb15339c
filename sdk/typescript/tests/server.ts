/** Servers that say what a test tells them to, and ways to look at errors. */
import assert from "node:assert/strict";
import net from "node:net";

import { ForkdError } from "forkd";

export interface Server {
  url: string;
  /** The bytes of each request, as they came. */
  requests: string[];
}

export const CREATED = "HTTP/1.1 201 Created\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";

/** Answers each connection with the same bytes, once its request is whole; null: never. */
export async function serving<T>(
  answer: string | null,
  use: (server: Server) => Promise<T>,
  path?: string,
): Promise<T> {
  const server: Server = { url: "", requests: [] };
  const open = new Set<net.Socket>();
  const listener = net.createServer((connection) => {
    open.add(connection);
    let received = "";
    connection.on("error", () => {});
    connection.on("data", (piece) => {
      received += piece.toString("latin1");
      const [head, body] = received.split("\r\n\r\n", 2);
      const length = Number(/^content-length: (\d+)$/im.exec(head!)?.[1] ?? 0);
      if (body === undefined || body.length < length) return;
      server.requests.push(received);
      if (answer !== null) connection.end(answer, "latin1");
    });
  });
  const where = path ? { path } : { port: 0, host: "127.0.0.1" };
  await new Promise<void>((resolve) => listener.listen(where, resolve));
  server.url = path ? `unix:${path}` : `http://127.0.0.1:${(listener.address() as net.AddressInfo).port}`;
  try {
    return await use(server);
  } finally {
    for (const connection of open) connection.destroy();
    await new Promise((resolve) => listener.close(resolve));
  }
}

export function failing(status: number, body: string): string {
  return `HTTP/1.1 ${status} Words\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`;
}

/** The error of exactly this class that a promise is rejected with. */
export async function rejected<E extends ForkdError>(
  kind: new (...args: never[]) => E,
  promise: Promise<unknown>,
): Promise<E> {
  const error = await promise.then(
    (answer) => assert.fail(`${kind.name} was to be thrown; the answer is ${JSON.stringify(answer)}`),
    (thrown: unknown) => thrown,
  );
  assert.equal((error as Error).constructor, kind, `${kind.name} was to be thrown, not ${error}`);
  assert.equal((error as Error).name, kind.name);
  return error as E;
}
