// What every part of the page may ask for without being handed it: the words and the numbers of its language.

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Actions } from "./actions.ts";
import { type Formats, formatsOf } from "./i18n/format.ts";
import type { Messages } from "./i18n/messages.ts";
import type { Trouble } from "./state.ts";
import type { State } from "./store.ts";

export interface PanelProps {
  state: State;
  actions: Actions;
}

const StateContext = createContext<State | null>(null);
export const StateProvider = StateContext.Provider;

function useState(): State {
  const state = useContext(StateContext);
  if (!state) throw new Error("The page was drawn outside its StateProvider.");
  return state;
}

export const useMessages = (): Messages => useState().messages.value;
export const useFormats = (): Formats => formatsOf(useState().language.value);

/** What went wrong, in the person's language where its code says enough. */
export const wordsOf = ({ code, message }: Trouble, t: Messages): string => t.failures[code] ?? message;
