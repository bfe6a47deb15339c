#!/usr/bin/env node
/**
 * forkd-mcp: an MCP server on standard input and output.
 *
 *     FORKD_URL           the controller; http://127.0.0.1:8889
 *     FORKD_TOKEN         where it asks for one
 *     FORKD_HTTP_TIMEOUT  seconds to wait for its answers; 60
 *
 * Standard output is the protocol's. It keeps nothing: the controller has all state.
 */
import { StdioServerTransport } from "@modelcontextprotocol/sdk/server/stdio.js";
import { Controller } from "forkd";

import { makeServer } from "./tools.js";

function timeoutMs(): number | undefined {
  const seconds = process.env.FORKD_HTTP_TIMEOUT;
  if (!seconds) return undefined;
  if (!(Number(seconds) > 0)) throw new TypeError(`FORKD_HTTP_TIMEOUT is a number of seconds, and not "${seconds}"`);
  return Number(seconds) * 1000;
}

try {
  await makeServer(new Controller({ timeoutMs: timeoutMs() })).connect(new StdioServerTransport());
} catch (error) {
  console.error(`forkd-mcp: ${(error as Error).message}`);
  process.exitCode = 1;
}
