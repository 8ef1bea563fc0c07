// Where the page begins.

import { computed, effect } from "@preact/signals";
import { render } from "preact";
import { createActions, firstDraft } from "./actions.ts";
import { App } from "./App.tsx";
import { openClient } from "./client.ts";
import { isAtWork } from "./state.ts";
import { createState } from "./store.ts";
import "./styles.css";
import { keepAwake } from "./wakeLock.ts";

const state = createState(firstDraft(), navigator.language.startsWith("zh") ? "zh" : "en");
const client = openClient({
  onSilence: (silent) => actions.noticeSilence(silent),
  onDeath: (failure) => actions.noticeDeath(failure),
});
const actions = createActions(state, client);

effect(() => {
  document.documentElement.lang = state.language.value === "zh" ? "zh-CN" : "en";
});
const atWork = computed(() => isAtWork(state.run.value.status) || state.bringing.value.status === "importing");
keepAwake(
  () => atWork.value,
  (changed) => atWork.subscribe(changed),
);
for (const kind of ["dragover", "drop"] as const) {
  addEventListener(kind, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault(); // A file dropped beside its place would replace the page.
    event.dataTransfer.dropEffect = "none";
  });
}

render(<App state={state} actions={actions} />, document.getElementById("app") as HTMLElement);
void actions.open();
