/**
 * What can go wrong, as classes.
 *
 *     ForkdError
 *       ControllerError    the controller said no: status, body, reason
 *         BadRequest       400  a field is wrong, or the tag of a new parent exists
 *         Unauthorized     401  no token, or not one of the controller's
 *         Forbidden        403  the token's rights do not go that far
 *         NotFound         404  no such sandbox or snapshot
 *         Conflict         409  not in this state: it stalled, it is not bootable, a branch's tag exists
 *         GuestFailed      502  the guest did not answer
 *         Unavailable      503  not now: too many branches at once, nothing free
 *       Unreachable        nobody answered at this URL
 *         TimedOut         ... within the time given
 *       BadAnswer          what answered does not speak the API
 */
export class ForkdError extends Error {
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** An answer of 400 or above. */
export class ControllerError extends ForkdError {
  /** The controller's sentence. */
  readonly reason: string;

  constructor(
    readonly status: number,
    /** What the answer held: parsed, where it was JSON. */
    readonly body: unknown,
    readonly url: string,
  ) {
    const hint = status === 401 ? " (the token is the option `token`, or FORKD_TOKEN)" : "";
    super(`controller ${url}: HTTP ${status}: ${reasonOf(body)}${hint}`);
    this.reason = reasonOf(body);
  }
}

export class BadRequest extends ControllerError {}
export class Unauthorized extends ControllerError {}
export class Forbidden extends ControllerError {}
export class NotFound extends ControllerError {}
export class Conflict extends ControllerError {}
export class GuestFailed extends ControllerError {}
export class Unavailable extends ControllerError {}

/** No connection, or it broke. */
export class Unreachable extends ForkdError {
  constructor(
    reason: string,
    readonly url: string,
    options?: ErrorOptions,
  ) {
    super(`controller ${url}: ${reason}`, options);
  }
}

/** No answer in time. What was asked for may happen all the same. */
export class TimedOut extends Unreachable {}

export class BadAnswer extends ForkdError {}

const BY_STATUS: Record<number, typeof ControllerError> = {
  400: BadRequest,
  401: Unauthorized,
  403: Forbidden,
  404: NotFound,
  409: Conflict,
  502: GuestFailed,
  503: Unavailable,
};

function reasonOf(body: unknown): string {
  if (typeof body === "string") return body;
  if (body && typeof body === "object" && "error" in body && typeof body.error === "string") return body.error;
  return JSON.stringify(body);
}

/** The error of the class that belongs to this status. */
export function controllerError(status: number, body: unknown, url: string): ControllerError {
  return new (BY_STATUS[status] ?? ControllerError)(status, body, url);
}
