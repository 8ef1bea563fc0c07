import { it } from "vitest";
import { multiply } from "../../src/engine/ops/matmul.ts";
import type { Variant } from "../../src/engine/ops/matmulText.ts";
import * as tf from "../../src/engine/tf.ts";
import { activate, normal, toTensor } from "../engine/harness.ts";
it("speed", async () => {
  await activate("webgpu");
  const size = Number(process.env.SIZE ?? 256);
  const layouts = (process.env.LAYOUTS ?? "nt").split(",");
  const variants: Variant[] = JSON.parse(process.env.VARIANTS!);
  const [a, b] = [toTensor(normal([size, size], 1)), toTensor(normal([size, size], 2))];
  for (const layout of layouts) {
    const times: number[][] = [...variants, null].map(() => []);
    const first: number[] = [];
    for (let round = 0; round < 4; round++) {
      for (const [i, variant] of [...variants, null].entries()) {
        const t0 = performance.now();
        const c = variant ? tf.zeros([size, size]).add(0) : tf.matMul(a, b, layout[0] === "t", layout[1] === "t");
        if (variant) {
          await c.data();
        }
        const t1 = cpuNow();
        void t0;
        if (variant)
          multiply(
            { a, b, c, M: size, N: size, K: size, transposeA: layout[0] === "t", transposeB: layout[1] === "t" },
            variant,
          );
        await c.data();
        const t = cpuNow() - t1;
        if (round > 0) times[i].push(t);
        else first[i] = t;
        c.dispose();
      }
    }
    for (const [i, variant] of [...variants, null].entries()) {
      const best = Math.min(...times[i]);
      console.log(
        layout,
        variant ? Object.values(variant).join(" ") : "tfjs",
        best.toFixed(1),
        "ms",
        ((2 * size ** 3) / best / 1e6).toFixed(2),
        "GFLOP/s, first",
        first[i].toFixed(0),
      );
    }
  }
}, 100000);
const cpuNow = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};
