// Which model: one of those that the page knows, or any by its name.

import type { PanelProps } from "./Page.tsx";
import { PINNED_MODELS } from "./pinned.ts";
import { wordsOf } from "./words.ts";

export function ChoosePanel({ state, actions }: PanelProps) {
  const { t, bytes } = wordsOf(state);
  const { status } = state.work.value;
  const busy = status === "opening" || status === "listing" || status === "fetching" || status === "pausing";
  return (
    <section class="card" aria-labelledby="choose-title">
      <header class="card-head">
        <h2 id="choose-title">{t.choose.title}</h2>
        <span role="status" class="quiet">
          {status === "listing" ? t.choose.listing : ""}
        </span>
      </header>
      <h3>{t.choose.known}</h3>
      <ul class="file-list">
        {PINNED_MODELS.map(({ repository, commit, licence, sizeBytes }) => (
          <li key={repository}>
            <span class="file-name">
              {repository}
              <span class="quiet">{t.choose.about(bytes(sizeBytes), licence)}</span>
            </span>
            <button
              type="button"
              disabled={busy}
              aria-label={`${t.choose.list}: ${repository}`}
              onClick={() => void actions.list(`${repository}@${commit}`)}
            >
              {t.choose.list}
            </button>
          </li>
        ))}
      </ul>
      <h3>{t.choose.other}</h3>
      <form
        class="other"
        onSubmit={(event) => {
          event.preventDefault();
          const { elements } = event.currentTarget;
          void actions.list((elements.namedItem("repository") as HTMLInputElement).value);
        }}
      >
        <div class="field">
          <label for="repository">{t.choose.otherLabel}</label>
          <input
            id="repository"
            name="repository"
            type="text"
            required
            autoComplete="off"
            autoCapitalize="none"
            spellcheck={false}
            aria-describedby="repository-hint"
          />
        </div>
        <button type="submit" disabled={busy}>
          {t.choose.list}
        </button>
      </form>
      <p class="quiet" id="repository-hint">
        {t.choose.otherHint} {t.choose.oneAtATime}
      </p>
    </section>
  );
}
