import { describe, expect, it } from "vitest";
import { constantTensor } from "../../src/engine/constants.ts";
import { recomputed, valueAndGradients } from "../../src/engine/gradients.ts";
import { add } from "../../src/engine/ops/add.ts";
import { rmsNorm } from "../../src/engine/ops/rmsNorm.ts";
import { swiGlu } from "../../src/engine/ops/swiGlu.ts";
import * as tf from "../../src/engine/tf.ts";
import { normal, toTensor, useBackend } from "./harness.ts";

const random = (shape: number[], seed: number) => toTensor(normal(shape, seed));

/** What is left of the tensors when `work` is done, those that it returns disposed of. */
async function leftBy(work: () => tf.Tensor[] | Promise<tf.Tensor[]>): Promise<number> {
  const before = tf.memory().numTensors;
  tf.dispose(await work());
  return tf.memory().numTensors - before;
}

const bits = async (x: tf.Tensor) => [...new Int32Array((await x.data()).slice().buffer)];

async function expectSame(found: tf.Tensor[], want: tf.Tensor[]): Promise<void> {
  for (const [i, tensor] of found.entries()) expect(await bits(tensor)).toEqual(await bits(want[i]));
}

describe.each(["cpu", "wasm", "webgpu"] as const)("gradients on %s", (backend) => {
  useBackend(backend);

  /** Branches that meet again, an input used twice, an output that nothing depends on, and a leaf that is not used. */
  const tangled = (x: tf.Tensor, w: tf.Tensor) => {
    const [a, b] = tf.split(x.mul(w), 2, 1) as [tf.Tensor, tf.Tensor];
    const [unused, c] = tf.split(a.add(x.slice([0, 1], [3, 4])), 2, 1) as [tf.Tensor, tf.Tensor];
    unused.square();
    return c.mul(c).sum().add(swiGlu(b, b).sum()).add(x.sum()) as tf.Scalar;
  };

  it("are those of TensorFlow.js, bit for bit, and nothing is left", async () => {
    const [x, w, idle] = [random([3, 8], 1), random([3, 8], 2), random([2, 5], 3)];
    const left = await leftBy(async () => {
      const { value, gradients } = valueAndGradients(() => tangled(x, w), [x, w, idle]);
      const { value: wanted, grads } = tf.engine().gradients(() => tangled(x, w), [x, w]);
      await expectSame([value, gradients[0], gradients[1]], [wanted, ...grads]);
      expect([...(await gradients[2].data())]).toEqual(Array.from({ length: 10 }, () => 0));
      return [value, wanted, ...gradients, ...grads];
    });
    expect(left).toBe(0);
    tf.dispose([x, w, idle]);
  });

  it("that one operation hands on for several inputs are each their own", async () => {
    const [x, w] = [random([3, 8], 1), random([3, 8], 2)];
    const left = await leftBy(async () => {
      const f = () => add(add(x, w), add(x, x)).sum() as tf.Scalar;
      const { value, gradients } = valueAndGradients(f, [x, w]);
      expect(gradients[0].dataId === gradients[1].dataId).toBe(false);
      expect([...(await gradients[0].data())].every((one) => one === 3)).toBe(true);
      expect([...(await gradients[1].data())].every((one) => one === 1)).toBe(true);
      return [value, ...gradients];
    });
    expect(left).toBe(0);
    tf.dispose([x, w]);
  });

  it("leave nothing behind when the function fails", async () => {
    const x = random([3, 8], 1);
    const fail = () => {
      swiGlu(x, x);
      throw new Error("no");
    };
    const left = await leftBy(async () => {
      expect(() => valueAndGradients(fail, [x])).toThrow("no");
      return [];
    });
    expect(left).toBe(0);
    x.dispose();
  });

  /** Three layers with weights of their own and a constant; what `through` does is put around each. */
  const deep = (
    x: tf.Tensor,
    weights: tf.Tensor[],
    through: (f: (x: tf.Tensor) => tf.Tensor, x: tf.Tensor, trained: tf.Tensor[]) => tf.Tensor,
  ) => {
    let y = x;
    for (const w of weights) y = through((z) => rmsNorm(swiGlu(z, z).add(z), w, 1e-6).mul(tf.scalar(3)), y, [w]);
    return y.square().sum() as tf.Scalar;
  };
  const remembering = (f: (x: tf.Tensor) => tf.Tensor, x: tf.Tensor) => f(x);
  const recomputing = (f: (x: tf.Tensor) => tf.Tensor, x: tf.Tensor, trained: tf.Tensor[]) =>
    recomputed(f, [x], trained);

  it.each([
    ["every leaf", [0, 1, 2, 3]],
    ["the input alone", [0]],
    ["one layer's weight", [2]],
  ])(
    "through recomputed layers by %s are those of remembered ones, bit for bit, and nothing is left",
    async (_, chosen) => {
      const leaves = [random([5, 8], 1), ...[2, 3, 4].map((seed) => random([8], seed))];
      const [x, ...weights] = leaves;
      const asked = chosen.map((i) => leaves[i]);
      const left = await leftBy(async () => {
        const plain = valueAndGradients(() => deep(x, weights, remembering), asked);
        const again = valueAndGradients(() => deep(x, weights, recomputing), asked);
        await expectSame([again.value, ...again.gradients], [plain.value, ...plain.gradients]);
        return [plain.value, again.value, ...plain.gradients, ...again.gradients];
      });
      expect(left).toBe(0);
      tf.dispose(leaves);
    },
  );

  it("of recomputed layers within a recomputed one are right", async () => {
    const leaves = [random([5, 8], 1), ...[2, 3, 4].map((seed) => random([8], seed))];
    const [x, ...weights] = leaves;
    const nested = () =>
      recomputed((z) => deep(z, weights, recomputing).reshape([1]), [x], weights)
        .mul(2)
        .sum() as tf.Scalar;
    const left = await leftBy(async () => {
      const plain = valueAndGradients(() => deep(x, weights, remembering).mul(2) as tf.Scalar, leaves);
      const again = valueAndGradients(nested, leaves);
      await expectSame(again.gradients, plain.gradients);
      return [plain.value, again.value, ...plain.gradients, ...again.gradients];
    });
    expect(left).toBe(0);
    tf.dispose(leaves);
  });

  it("outside of a differentiation a recomputed part is computed once", () => {
    let runs = 0;
    const x = random([2, 3], 1);
    const y = recomputed((z) => (runs++, z.mul(2)), [x], []);
    expect(runs).toBe(1);
    tf.dispose([x, y]);
  });

  it("a constant outlives those who dispose of it", async () => {
    const first = constantTensor([1, 2, 3], [3], "int32");
    first.dispose();
    const again = constantTensor([1, 2, 3], [3], "int32");
    expect([...(await again.data())]).toEqual([1, 2, 3]);
    again.dispose();
  });
});
