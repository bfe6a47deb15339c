/** Where a controller is: http://HOST:PORT, https://HOST:PORT or unix:/path/of/its/socket. */
import { constants, existsSync, statSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { homedir } from "node:os";
import path from "node:path";

export const DEFAULT_URL = "http://127.0.0.1:8889";
/** sun_path of Linux's sockaddr_un, less the closing zero (unix(7)). */
const SOCKET_PATH_MAX = 107;

export interface Address {
  url: string;
  /** The path of a Unix socket; otherwise the URL says where. */
  socket?: string;
}

/** Throws a TypeError for what is no such URL. */
export function parseUrl(url: string): Address {
  if (url.startsWith("unix:")) {
    const socket = url.slice("unix:".length).replace(/^\/\//, "");
    if (!socket) throw new TypeError(`"${url}" names no socket: unix:/path is meant`);
    return { url, socket };
  }
  url = url.replace(/\/+$/, "");
  let parsed: URL | undefined;
  try {
    parsed = new URL(url);
  } catch {
    // Told below.
  }
  if (!parsed?.hostname || !["http:", "https:"].includes(parsed.protocol))
    throw new TypeError(`"${url}" is neither http://HOST:PORT, https://HOST:PORT nor unix:/path`);
  return { url };
}

/**
 * A socket's path in a form that fits into an address: where it is too long, through its directory's descriptor, which
 * is to be held until the connection is made.
 */
export async function shortPath(socket: string): Promise<{ path: string; directory?: FileHandle }> {
  if (Buffer.byteLength(socket) <= SOCKET_PATH_MAX) return { path: socket };
  const directory = await open(path.dirname(socket), constants.O_RDONLY | constants.O_DIRECTORY);
  return { path: `/proc/self/fd/${directory.fd}/${path.basename(socket)}`, directory };
}

/** The socket of the controller that the command `forkd` starts for this user, if it is there. */
export function ownSocket(): string | undefined {
  const { FORKD_STATE: state, XDG_STATE_HOME: xdg } = process.env;
  let directory: string;
  // It names the state's file, or the directory that it is in: one that ends in a slash need not be there yet.
  const isDirectory = state?.endsWith("/") || (state && statSync(state, { throwIfNoEntry: false })?.isDirectory());
  if (state) directory = isDirectory ? state : path.dirname(state);
  else if (process.geteuid?.() === 0) directory = "/var/lib/forkd/private";
  else directory = path.join(xdg || path.join(homedir(), ".local/state"), "forkd");
  const socket = path.join(directory, "controller.sock");
  return existsSync(socket) ? socket : undefined;
}
