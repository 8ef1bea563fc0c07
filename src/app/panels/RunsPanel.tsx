// All runs that this browser remembers.

import { type PanelProps, useFormats, useMessages } from "../context.ts";
import { isAtWork } from "../state.ts";
import { Card } from "../widgets/Card.tsx";
import { ModelName } from "../widgets/ModelName.tsx";

export function RunsPanel({ state, actions }: PanelProps) {
  const [t, format] = [useMessages(), useFormats()];
  const [runs, shown] = [state.runs.value, state.run.value];
  if (runs.length === 0) return null;
  const atWork = isAtWork(shown.status);
  return (
    <Card title={t.runs.title} class="runs">
      <ul class="file-list">
        {runs.map(({ record, status }) => {
          const when = format.dateTime(record.createdAt);
          const isShown = shown.status !== "none" && shown.runId === record.id;
          return (
            <li key={record.id} aria-current={isShown ? "true" : undefined}>
              <span class="file-name">
                {record.name}
                <span class="quiet">
                  {when} · <ModelName model={record.recipe.model} models={state.models.value} /> ·{" "}
                  {t.runs.statuses[isShown && atWork ? "running" : status]}
                </span>
              </span>
              <span class="buttons">
                <button
                  type="button"
                  aria-label={t.runs.showNamed(record.name, when)}
                  disabled={atWork || isShown}
                  onClick={() => void actions.showRun(record.id)}
                >
                  {t.runs.show}
                </button>
                <button
                  type="button"
                  aria-label={t.runs.deleteNamed(record.name, when)}
                  disabled={(atWork && isShown) || status === "elsewhere"}
                  onClick={() => confirm(t.runs.confirm) && void actions.deleteRun(record.id)}
                >
                  {t.runs.delete}
                </button>
              </span>
            </li>
          );
        })}
      </ul>
    </Card>
  );
}
