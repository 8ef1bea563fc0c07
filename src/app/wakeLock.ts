// Keeps the machine awake while it trains. Browsers let go of the lock when the page is hidden, so it is asked for again.

/** `wanted` is read now and whenever `watch` calls back. A browser that refuses does so without consequence. */
export function keepAwake(wanted: () => boolean, watch: (changed: () => void) => void): void {
  let lock: WakeLockSentinel | null = null;
  let asking = false;

  async function adjust(): Promise<void> {
    if (asking || !("wakeLock" in navigator)) return;
    asking = true;
    try {
      if (wanted() && !document.hidden && (!lock || lock.released)) lock = await navigator.wakeLock.request("screen");
      if (!wanted() && lock) {
        await lock.release();
        lock = null;
      }
    } catch {
      lock = null; // Refused, e.g. on low battery: training goes on as long as the machine does.
    } finally {
      asking = false;
    }
  }

  watch(() => void adjust());
  document.addEventListener("visibilitychange", () => void adjust());
}
