// The page's state as signals. Only actions.ts writes to them.

import { computed, type ReadonlySignal, type Signal, signal } from "@preact/signals";
import type { Recipe } from "../protocol/recipe.ts";
import { advise, type Draft, recipeOf } from "./draft.ts";
import { en } from "./i18n/en.ts";
import type { Language, Messages } from "./i18n/messages.ts";
import { zh } from "./i18n/zh.ts";
import { isModelGone } from "./keeping.ts";
import type {
  Answer,
  Bringing,
  DatasetRecord,
  Engine,
  ExportLimits,
  FileRecord,
  Importing,
  KnownRun,
  ModelRecord,
  Question,
  ShownRun,
  Trouble,
} from "./state.ts";
import type { RunView } from "./view.ts";

export interface State {
  language: Signal<Language>;
  messages: ReadonlySignal<Messages>;
  engine: Signal<Engine>;
  draft: Signal<Draft>;
  /** The recipe that would be run. */
  recipe: ReadonlySignal<Recipe>;
  advice: ReadonlySignal<ReturnType<typeof advise>>;
  run: Signal<ShownRun>;
  view: Signal<RunView | null>;
  runs: Signal<KnownRun[]>;
  files: Signal<FileRecord[]>;
  datasets: Signal<DatasetRecord[]>;
  importing: Signal<Importing>;
  /** Those that the person brought, unfinished ones too. */
  models: Signal<ModelRecord[]>;
  bringing: Signal<Bringing>;
  /** What of the recipe's model cannot be exported; null until known. */
  limits: Signal<ExportLimits | null>;
  question: Signal<Question>;
  answer: Signal<Answer>;
  /** Bytes that this page's storage takes; null until known. */
  storageBytes: Signal<number | null>;
  /** Something that went wrong and belongs to no panel. */
  trouble: Signal<Trouble | null>;
}

export function createState(draft: Draft, language: Language): State {
  const languageSignal = signal(language);
  const draftSignal = signal(draft);
  const models = signal<ModelRecord[]>([]);
  const limits = signal<ExportLimits | null>(null);
  return {
    language: languageSignal,
    messages: computed(() => (languageSignal.value === "zh" ? zh : en)),
    engine: signal<Engine>({ status: "starting" }),
    draft: draftSignal,
    recipe: computed(() => recipeOf(draftSignal.value)),
    advice: computed(() =>
      advise(draftSignal.value, isModelGone(draftSignal.value.recipe, models.value), limits.value),
    ),
    run: signal<ShownRun>({ status: "none" }),
    view: signal<RunView | null>(null),
    runs: signal<KnownRun[]>([]),
    files: signal<FileRecord[]>([]),
    datasets: signal<DatasetRecord[]>([]),
    importing: signal<Importing>({ status: "idle" }),
    models,
    bringing: signal<Bringing>({ status: "idle" }),
    limits,
    question: signal<Question>({ whom: "base", mode: "chain", text: "", drawn: null }),
    answer: signal<Answer>({ status: "none" }),
    storageBytes: signal<number | null>(null),
    trouble: signal<Trouble | null>(null),
  };
}
