// Where a run lives in a browser: models beside the page, records and bytes in its storage.

import type { CaseStudy } from "../src/protocol/data.ts";
import type { RunEvent } from "../src/protocol/run.ts";
import type { RunHost } from "../src/recipes/host.ts";
import type { Checkpoints } from "../src/storage/checkpoints.ts";
import type { Database, RunRecord } from "../src/storage/database.ts";
import { readDataset } from "../src/storage/datasets.ts";
import { Failure } from "../src/storage/failure.ts";
import type { Files } from "../src/storage/files.ts";
import { openRunFile, removeRunFile, removeRunFiles } from "../src/storage/runs.ts";
import { split, textKey } from "../src/data/splits.ts";
import type { EventLog } from "./eventLog.ts";

export interface HostParts {
  database: Database;
  files: Files;
  run: RunRecord;
  checkpoints: Checkpoints;
  log: EventLog;
  readModel: RunHost["readModel"];
  onEvent: (event: RunEvent) => void;
  stopping: () => boolean;
}

export function runHost({ database, files, run, checkpoints, log, readModel, onEvent, stopping }: HostParts): RunHost {
  return {
    readModel,
    readStudy: (datasetId) => readStudy(database, run, datasetId),

    async saveCheckpoint(checkpoint) {
      const events = await log.flush();
      await checkpoints.save(checkpoint, events);
    },

    openFile: (name) => openRunFile(database, files, run.id, name),
    removeFile: (name) => removeRunFile(database, files, run.id, name),
    clearFolder: (name) => removeRunFiles(database, files, run.id, `${name}/`),

    onEvent(event) {
      log.add(event);
      onEvent(event);
    },

    stopping,
    description: browserName(),
  };
}

/** E.g. "Chromium 156 on Linux"; where a browser does not say it so, the long line that every browser has. */
function browserName(): string {
  const { userAgentData, userAgent } = navigator as Navigator & {
    userAgentData?: { brands: { brand: string; version: string }[]; platform: string };
  };
  const brand = userAgentData?.brands.find(({ brand }) => !/not.*brand/i.test(brand));
  return userAgentData && brand ? `${brand.brand} ${brand.version} on ${userAgentData.platform}` : userAgent;
}

async function readStudy(database: Database, { recipe }: RunRecord, datasetId: string): Promise<CaseStudy> {
  const { study, seed } = recipe;
  if (study.kind !== "imported")
    throw new Failure("input", "The recipe names no imported data set, yet one was asked for.");
  const { record, cases } = await readDataset(database, datasetId);
  const parts = split(cases, { validation: study.validation, test: study.test, seed }, (item) =>
    textKey(item.question),
  );
  return { name: record.name, seed, ...parts };
}
