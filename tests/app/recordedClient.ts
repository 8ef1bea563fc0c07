// A client that does nothing but say so: each call is written down and waits until the test answers it.

import type { Client } from "../../src/app/client.ts";

type Verb = keyof Client;
type Given<V extends Verb> = Parameters<Client[V]>;
type Answered<V extends Verb> = Awaited<ReturnType<Client[V]>>;

interface Call {
  verb: Verb;
  given: unknown[];
  resolve: (value: unknown) => void;
  reject: (error: unknown) => void;
}

export interface RecordedClient {
  client: Client;
  /** Verbs called so far, in order. */
  verbs(): Verb[];
  /** What the latest call of `verb` was given. */
  given<V extends Verb>(verb: V): Given<V>;
  /** Answer the latest call of `verb`, and let what waited for it go on. */
  answer<V extends Verb>(verb: V, value: Answered<V>): Promise<void>;
  fail(verb: Verb, error: Error): Promise<void>;
}

/** `standing`: answers given at once, every time. */
export function recordedClient(standing: { [V in Verb]?: () => Answered<V> }): RecordedClient {
  const calls: Call[] = [];
  const client = new Proxy({} as Client, {
    get:
      (_, verb: Verb) =>
      (...given: unknown[]) => {
        const at = standing[verb];
        return new Promise((resolve, reject) => {
          calls.push({ verb, given, resolve, reject });
          if (at) resolve(at());
        });
      },
  });
  const latest = (verb: Verb): Call => {
    const call = calls.findLast((one) => one.verb === verb);
    if (!call) throw new Error(`${verb} was not called; ${calls.map((one) => one.verb).join(", ")} were.`);
    return call;
  };
  return {
    client,
    verbs: () => calls.map(({ verb }) => verb),
    given: (verb) => latest(verb).given as never,
    answer: (verb, value) => settle(() => latest(verb).resolve(value)),
    fail: (verb, error) => settle(() => latest(verb).reject(error)),
  };
}

/** Everything that was waiting has gone on as far as it can. */
async function settle(act: () => void): Promise<void> {
  act();
  await new Promise((resolve) => setImmediate(resolve));
}
