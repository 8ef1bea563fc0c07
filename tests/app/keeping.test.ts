import { expect, it } from "vitest";
import { nameOfModel, recommend, unfinishedOf } from "../../src/app/keeping.ts";
import type { StoragePlan } from "../../src/recipes/planStorage.ts";
import type { ModelRecord } from "../../src/storage/database.ts";

/** Four bytes a parameter in float32, and half as much again for tuning. */
function plansOf(parameters: number, budgetBytes: number | null): StoragePlan[] {
  const bytes = { f32: 4, f16: 2, int8: 1.1, int4: 0.6 };
  return (["f32", "f16", "int8", "int4"] as const).map((storage) => {
    const weightBytes = parameters * bytes[storage];
    const tuningBytes = weightBytes * 1.5;
    return { storage, weightBytes, tuningBytes, budgetBytes, fits: tuningBytes <= (budgetBytes ?? Infinity) };
  });
}

it.each([
  [1e6, 4e9, "f32"], // Small enough to be pruned.
  [1e6, null, "f32"],
  [3e7, 4e9, "f16"],
  [1.5e9, 4e9, "int8"],
  [3e9, 4e9, "int4"],
  [7e9, 4e9, null], // Fits in no form.
  [1.5e9, null, "int8"], // Nobody tells: what an ordinary GPU has.
  [7e9, null, "int4"],
] as const)("keeps %d parameters on a device with %s bytes as %s", (parameters, budgetBytes, storage) => {
  expect(recommend(plansOf(parameters, budgetBytes))).toBe(storage);
});

it("knows files again whose import was not ended, by their names and sizes", () => {
  const sources = [
    { name: "a.safetensors", sizeBytes: 3, sha256: "00" },
    { name: "b.safetensors", sizeBytes: 2, sha256: "01" },
  ];
  const begun = { sources, sizeBytes: 10, doneBytes: 4 } as ModelRecord;
  const [a, b] = [new File(["123"], "a.safetensors"), new File(["12"], "b.safetensors")];
  expect(unfinishedOf([a, b, new File([], "README.md")], [begun])).toEqual([begun]);
  expect(unfinishedOf([a], [begun])).toEqual([]);
  expect(unfinishedOf([a, new File(["1"], "b.safetensors")], [begun])).toEqual([]);
  expect(unfinishedOf([a, b], [{ ...begun, doneBytes: 10 }])).toEqual([]);
});

it("calls a model as the person did, others by their folder, and none that is gone", () => {
  const models = [{ id: "local-1", name: "mine" } as ModelRecord];
  expect(nameOfModel("local-1", models)).toBe("mine");
  expect(nameOfModel("deepseek-nano", models)).toBe("deepseek-nano");
  expect(nameOfModel("local-2", models)).toBeNull();
});
