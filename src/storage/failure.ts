// What goes wrong, as a code the page can act on and a sentence a person can act on.

export type FailureCode =
  /** Something the person gave cannot be used. */
  | "input"
  /** The worker is at work on something else. */
  | "busy"
  /** Another tab of this browser is at work on it. */
  | "elsewhere"
  /** The browser gives no more room. */
  | "quota"
  /** What was stored is not what was written. */
  | "damaged"
  /** It is not there. */
  | "missing"
  /** This browser lacks what is needed. */
  | "unsupported"
  /** A newer version of Espalier wrote it, or holds it open. */
  | "version"
  /** The worker ended. */
  | "workerDied"
  /** The graphics device went away. */
  | "deviceLost"
  /** The device has no room for the model or its training. */
  | "memory"
  /** The computation itself failed. */
  | "engine";

const codes: ReadonlySet<string> = new Set<FailureCode>([
  "input",
  "busy",
  "elsewhere",
  "quota",
  "damaged",
  "missing",
  "unsupported",
  "version",
  "workerDied",
  "deviceLost",
  "memory",
  "engine",
]);

/** Errors of the engine, by name: layers below this one may not be imported, and names survive between threads. */
const engineErrors: Record<string, FailureCode> = {
  DeviceLostError: "deviceLost",
  GpuMemoryError: "memory",
  ThreadLostError: "workerDied",
};

/** An error whose `name` is its code: name and message are all that survives the way between threads. */
export class Failure extends Error {
  constructor(code: FailureCode, message: string) {
    super(message);
    this.name = code;
  }

  get code(): FailureCode {
    return this.name as FailureCode;
  }
}

/** Whatever was thrown, here or in another thread, as a failure. */
export function asFailure(thrown: unknown): Failure {
  if (thrown instanceof Failure) return thrown;
  const name = thrown instanceof Error || thrown instanceof DOMException ? thrown.name : "";
  const message = thrown instanceof Error || thrown instanceof DOMException ? thrown.message : String(thrown);
  if (codes.has(name)) return new Failure(name as FailureCode, message);
  if (name === "QuotaExceededError") return outOfSpace("what was to be saved");
  if (name in engineErrors) return new Failure(engineErrors[name], message);
  return new Failure("engine", message);
}

/** `what`: a noun phrase, e.g. "the checkpoint (12 MB)". */
export function outOfSpace(what: string): Failure {
  return new Failure(
    "quota",
    `This browser has no room left for ${what}; what was stored before is untouched. Delete old runs or free disk space, then try again.`,
  );
}
