// English.

import type { Checksum } from "./hub.ts";
import type { JobProgress } from "./job.ts";
import type { Trouble } from "./trouble.ts";

const checksum = ({ algorithm, saidBy }: Checksum): string => {
  if (saidBy === "page") return "SHA-256, known to this page";
  return algorithm === "sha256" ? "SHA-256, told by the hub" : "Git's SHA-1, told by the hub";
};

const phases: Record<JobProgress["phase"], string> = {
  reading: "Reading what is here",
  fetching: "Fetching",
  waiting: "To be continued",
  whole: "Whole and checked",
};

function trouble(met: Trouble, bytes: (value: number) => string): string {
  switch (met.kind) {
    case "notARepository":
      return `"${met.text}" is no repository of the hub. Write owner/name, or owner/name@revision.`;
    case "unreachable":
      return `The hub could not be reached for ${met.what}, or broke off again and again. What came is kept: check the connection and go on.`;
    case "notFound":
      return `The hub has no ${met.what}, or shows it only to people who have signed in. Check the name and the revision.`;
    case "gated":
      return `The owner of ${met.what} wants people to sign in and agree to terms first, which this page cannot do. Fetch it with the hub's own tools.`;
    case "status":
      return `The hub answered ${met.what} with status ${met.status}. Try again later.`;
    case "notUnderstood":
      return `The hub's answer about ${met.what} is not what its interface promises, so nothing was fetched.`;
    case "nothingToFetch":
      return `${met.repository} has no .safetensors or .gguf file, and Espalier reads no other weights. Choose another repository.`;
    case "notAsPinned":
      return `The hub now tells another checksum for ${met.path} (${met.found}) than this page knows (${met.wanted}), so nothing was fetched.`;
    case "wrongSize":
      return `${met.path} should have ${bytes(met.wantedBytes)} and has not, so it was deleted. Fetch it again.`;
    case "wrongChecksum":
      return `${met.path} is not what it should be: its checksum is ${met.found}, wanted is ${met.wanted}. It was deleted. Fetch it again.`;
    case "noRoom":
      return `This needs ${bytes(met.neededBytes)}, and the browser has room for ${bytes(met.freeBytes)}. Free disk space, or delete old runs on the main page.`;
    case "storage":
      return met.message;
  }
}

export const en = {
  title: "Get a model",
  tagline: "From a hub to a folder of yours, checked. This page sees no data of yours.",
  language: "Language",
  back: "To the main page",

  apart: {
    title: "Why a page of its own",
    text: "The main page sees private data, so it may talk to nobody. This page may talk to huggingface.co and the hosts under hf.co that hold its files, and reads nothing that the main page keeps. Between the two there is only the folder that you save here and choose there.",
    told: "The hub learns your network address and what you fetch, as with any download.",
  },

  choose: {
    title: "Choose",
    known: "Models that this page knows by their checksums",
    about: (size: string, licence: string) => `${size} · licence ${licence}`,
    other: "Another one",
    otherLabel: "owner/name@revision",
    otherHint: "Its licence is yours to read. Espalier runs Qwen2 and DeepSeek-V2 and V3 architectures.",
    list: "List its files",
    listing: "Asking the hub …",
    oneAtATime: "One model is kept here at a time: fetching another one deletes it.",
  },

  files: {
    title: "Files",
    commit: (repository: string, commit: string) => `${repository} at commit ${commit}`,
    include: (path: string) => `Fetch ${path}`,
    file: "File",
    size: "Size",
    checksum: "Checked against",
    state: "State",
    phases,
    part: (share: string) => `${share} here`,
    none: "Choose at least one file.",
    total: (have: string, total: string) => `${have} of ${total}`,
    progress: "All files",
    fetch: (size: string) => `Fetch ${size}`,
    pause: "Pause",
    pausing: "Pausing …",
    goOn: "Go on",
    remove: "Delete what was fetched",
    status: {
      listed: "Ready to fetch",
      fetching: "Fetching",
      pausing: "Pausing",
      paused: "Paused",
      whole: "Whole and checked",
    },
    resumes: "It can be paused, and goes on after a reload or a broken connection.",
  },

  take: {
    title: "Take it",
    lead: "Save the files into a folder, then choose that folder on the main page. The main page reads nothing from here by itself.",
    folder: "Save the folder",
    all: "Save all files",
    save: (path: string) => `Save ${path}`,
    saveOne: "Save",
    saving: (path: string) => `Saving ${path} …`,
    saved: (folder: string) => `Saved into ${folder}. What is here can be deleted now.`,
  },

  checksum,
  trouble,
  workerEnded: "The worker of this page ended. What was fetched is kept: reload the page to go on.",
};

export type Messages = typeof en;
