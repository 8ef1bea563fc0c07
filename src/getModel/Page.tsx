// The page that fetches models: choose, fetch, take away.

import { ChoosePanel } from "./ChoosePanel.tsx";
import { FilesPanel } from "./FilesPanel.tsx";
import type { Actions, Language, State } from "./state.ts";
import { TakePanel } from "./TakePanel.tsx";
import { wordsOf } from "./words.ts";

export interface PanelProps {
  state: State;
  actions: Actions;
}

const LANGUAGES: { value: Language; label: string; lang: string }[] = [
  { value: "en", label: "English", lang: "en" },
  { value: "zh", label: "中文", lang: "zh-CN" },
];

export function Page({ state, actions }: PanelProps) {
  const { t } = wordsOf(state);
  return (
    <div class="get-model">
      <header class="top">
        <div class="brand">
          <div>
            <h1>{t.title}</h1>
            <p>{t.tagline}</p>
          </div>
        </div>
        <div class="top-tools">
          <a href="../">{t.back}</a>
          <LanguageChoice state={state} actions={actions} />
        </div>
      </header>
      <main>
        <Notice state={state} />
        <ChoosePanel state={state} actions={actions} />
        <FilesPanel state={state} actions={actions} />
        <TakePanel state={state} actions={actions} />
        <section class="card" aria-labelledby="apart-title">
          <h2 id="apart-title">{t.apart.title}</h2>
          <p>{t.apart.text}</p>
          <p class="quiet">{t.apart.told}</p>
        </section>
      </main>
    </div>
  );
}

function LanguageChoice({ state, actions }: PanelProps) {
  const { t } = wordsOf(state);
  return (
    <fieldset class="choice">
      <legend class="visually-hidden">{t.language}</legend>
      <div class="choice-options">
        {LANGUAGES.map(({ value, label, lang }) => (
          <label key={value} lang={lang}>
            <input
              type="radio"
              name="language"
              value={value}
              checked={value === state.language.value}
              onChange={() => actions.setLanguage(value)}
            />
            <span>{label}</span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}

function Notice({ state }: { state: State }) {
  const { t, bytes } = wordsOf(state);
  const trouble = state.trouble.value;
  return (
    <div class="notices" role="alert">
      {trouble && (
        <div class="notice bad">
          <p>{trouble === "workerEnded" ? t.workerEnded : t.trouble(trouble, bytes)}</p>
        </div>
      )}
    </div>
  );
}
