// The page of the check: hands the chosen files to the app's own worker, then the kept model to one that tries it.

import { proxy, wrap } from "comlink";
import type { DataApi } from "../../../workers/data.worker.ts";
import type { TryApi, Tried } from "./try.worker.ts";

export interface Imported {
  id: string;
  seconds: { checking: number; converting: number };
}

declare global {
  var importChosen: (storage: "int4" | "int8") => Promise<Imported>;
  var tryModel: (id: string, prompt: number[]) => Promise<Tried>;
}

globalThis.importChosen = async (storage) => {
  const worker = new Worker(new URL("../../../workers/data.worker.ts", import.meta.url), {
    type: "module",
    name: "data",
  });
  const files = [...(document.querySelector("#files") as HTMLInputElement).files!];
  const startedMs = performance.now();
  let convertingMs = 0;
  const api = wrap<DataApi>(worker);
  const record = await api.importModel(
    files,
    "big",
    storage,
    proxy(({ phase }) => {
      if (phase === "converting") convertingMs ||= performance.now();
    }),
  );
  worker.terminate();
  const endedMs = performance.now();
  const seconds = { checking: (convertingMs - startedMs) / 1000, converting: (endedMs - convertingMs) / 1000 };
  return { id: record!.id, seconds };
};

globalThis.tryModel = async (id, prompt) => {
  const worker = new Worker(new URL("./try.worker.ts", import.meta.url), { type: "module", name: "try" });
  const tried = await wrap<TryApi>(worker).tryModel(id, prompt);
  worker.terminate();
  return tried;
};
