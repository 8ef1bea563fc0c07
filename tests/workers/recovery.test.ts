import { describe, expect, it } from "vitest";
import { DeviceLostError } from "../../src/engine/device.ts";
import { withRecovery } from "../../workers/recovery.ts";

/** Fails with each of these in turn, then succeeds. */
function failingWith(errors: Error[]): { attempt: () => Promise<string>; tries: () => number } {
  let tries = 0;
  return {
    tries: () => tries,
    attempt: () => {
      const error = errors[tries++];
      return error ? Promise.reject(error) : Promise.resolve("done");
    },
  };
}

const lost = () => new DeviceLostError("The GPU was lost (driver reset).");

describe("a run whose device is lost", () => {
  it("is tried again", async () => {
    const { attempt, tries } = failingWith([lost(), lost()]);
    expect(await withRecovery(attempt)).toBe("done");
    expect(tries()).toBe(3);
  });

  it("ends at the third loss within ten minutes, with what to do", async () => {
    const { attempt, tries } = failingWith([lost(), lost(), lost()]);
    await expect(withRecovery(attempt)).rejects.toMatchObject({
      name: "deviceLost",
      message: /3 times in ten minutes.*driver reset.*Stored work is safe/,
    });
    expect(tries()).toBe(3);
  });

  it("goes on for ever when losses are rare", async () => {
    let minutes = 0;
    const { attempt } = failingWith([lost(), lost(), lost(), lost(), lost()]);
    const hourly = () => {
      minutes += 6; // Asked two or three times a loss.
      return minutes * 60_000;
    };
    expect(await withRecovery(attempt, hourly)).toBe("done");
  });

  it("is not tried again for any other failure", async () => {
    const { attempt, tries } = failingWith([new Error("the loss is not a number")]);
    await expect(withRecovery(attempt)).rejects.toThrow("the loss is not a number");
    expect(tries()).toBe(1);
  });
});
