// What was fetched, to the person's disk, and from there to the main page.

import type { PanelProps } from "./Page.tsx";
import { canSaveFolder } from "./save.ts";
import { wordsOf } from "./words.ts";

export function TakePanel({ state, actions }: PanelProps) {
  const work = state.work.value;
  if (work.status !== "whole") return null;
  const { t } = wordsOf(state);
  const saving = state.saving.value;
  return (
    <section class="card" aria-labelledby="take-title">
      <h2 id="take-title">{t.take.title}</h2>
      <p>{t.take.lead}</p>
      <ul class="file-list">
        {work.job.files.map(({ path }) => (
          <li key={path}>
            <span class="file-name">{path}</span>
            <button type="button" aria-label={t.take.save(path)} onClick={() => void actions.saveFile(path)}>
              {t.take.saveOne}
            </button>
          </li>
        ))}
      </ul>
      <div class="buttons">
        <button
          type="button"
          class="primary"
          disabled={saving.status === "saving"}
          onClick={() => void actions.saveAll()}
        >
          {canSaveFolder() ? t.take.folder : t.take.all}
        </button>
        <a class="file-button" href="../">
          {t.back}
        </a>
      </div>
      <p role="status" class="quiet">
        {saving.status === "saving" && t.take.saving(saving.path)}
        {saving.status === "saved" && t.take.saved(saving.folder)}
      </p>
    </section>
  );
}
