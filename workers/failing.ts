// How a worker's verbs fail.

import { asFailure } from "../src/storage/failure.ts";

/** Do it; every failure leaves the worker with a code for a name, which is what survives the way to the page. */
export async function failing<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw asFailure(error);
  }
}
