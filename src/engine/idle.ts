// Letting others have their turn: messages, signals and events reach a busy thread only between two tasks.

/** Resolves as a task of its own, after what was already waiting. (A timer would cost 4 ms each time in a browser.) */
export function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.addEventListener("message", () => {
      port1.close();
      resolve();
    });
    port1.start();
    port2.postMessage(null);
  });
}

const TURN_MS = 50;
let turnEndsMs = 0;

/** The same, but at most twenty times a second: for loops whose rounds are short. */
export async function nextTurn(): Promise<void> {
  if (performance.now() < turnEndsMs) return;
  await nextTask();
  turnEndsMs = performance.now() + TURN_MS;
}
