// Where the page that fetches models begins.

import { effect } from "@preact/signals";
import { render } from "preact";
import "../app/styles.css";
import { openClient } from "./client.ts";
import "./getModel.css";
import { Page } from "./Page.tsx";
import { createActions, createState } from "./state.ts";

const state = createState(navigator.language.startsWith("zh") ? "zh" : "en");
const client = openClient(() => {
  state.trouble.value = "workerEnded";
});
const actions = createActions(state, client);

effect(() => {
  document.documentElement.lang = state.language.value === "zh" ? "zh-CN" : "en";
});

render(<Page state={state} actions={actions} />, document.getElementById("app") as HTMLElement);
void actions.open();
