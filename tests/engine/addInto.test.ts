import { describe, expect, it } from "vitest";
import { addInto } from "../../src/engine/ops/addInto.ts";
import { zeros } from "../../src/engine/ops/zeros.ts";
import { normal, toTensor, useBackend } from "./harness.ts";
import { poison as poisonHeap } from "./wasm/poison.ts";
import { poison as poisonBuffers } from "./webgpu/poison.ts";

describe.each(["cpu", "wasm", "webgpu"] as const)("on %s", (backend) => {
  useBackend(backend);
  const poison = { cpu: () => {}, wasm: poisonHeap, webgpu: poisonBuffers }[backend];

  it.each([[[1]], [[3, 65]], [[2, 7, 11]]])("addInto adds to what is there, in place: %j", async (shape) => {
    const [a, b] = [normal(shape, 1), normal(shape, 2)];
    const [sum, x] = [toTensor(a), toTensor(b)];
    addInto(sum, x);
    addInto(sum, x);
    const wanted = a.values.map((value, i) => Math.fround(value + b.values[i]) + b.values[i]);
    expect(await sum.data()).toEqual(wanted);
    sum.dispose();
    x.dispose();
  });

  it.each([[[]], [[3, 65]], [[2, 7, 11]]])("zeros are zeros whatever was there: %j", async (shape) => {
    poison();
    const y = zeros(shape);
    expect(y.shape).toEqual(shape);
    expect([...(await y.data())].every((value) => value === 0)).toBe(true);
    y.dispose();
  });

  it("addInto refuses tensors of two shapes", () => {
    const [sum, x] = [toTensor(normal([2, 3], 1)), toTensor(normal([3, 2], 2))];
    expect(() => addInto(sum, x)).toThrow("addInto: sum is [2,3], x is [3,2]");
    sum.dispose();
    x.dispose();
  });
});
