// Data that the person brings.

import { useId } from "preact/hooks";
import { type PanelProps, useFormats, useMessages, wordsOf } from "../context.ts";
import { type Importing, isAtWork } from "../state.ts";
import { Card } from "../widgets/Card.tsx";
import { ProgressBar } from "../widgets/ProgressBar.tsx";

export function DataPanel({ state, actions }: PanelProps) {
  const [t, format, id] = [useMessages(), useFormats(), useId()];
  const importing = state.importing.value;
  const reading = importing.status === "reading";
  return (
    <Card title={t.data.title} lead={t.data.lead} class="data">
      <ul class="file-list">
        {state.datasets.value.map((dataset) => (
          <li key={dataset.id}>
            <span class="file-name">
              {dataset.name}
              <span class="quiet">{t.data.cases(format.whole(dataset.cases))}</span>
            </span>
            <button
              type="button"
              aria-label={t.data.delete(dataset.name)}
              disabled={isAtWork(state.run.value.status)}
              onClick={() => void actions.deleteDataset(dataset.id)}
            >
              {t.runs.delete}
            </button>
          </li>
        ))}
      </ul>
      <label class={reading ? "file-button disabled" : "file-button"} for={id}>
        {t.data.choose}
      </label>
      <input
        id={id}
        class="visually-hidden"
        type="file"
        accept=".csv,.tsv,.jsonl,.ndjson,.json"
        disabled={reading}
        onChange={(event) => {
          const input = event.currentTarget;
          const file = input.files?.[0];
          input.value = ""; // The same file can be chosen again.
          if (file) void actions.importFile(file);
        }}
      />
      <ImportState importing={importing} onCancel={() => void actions.cancelImport()} />
    </Card>
  );
}

function ImportState({ importing, onCancel }: { importing: Importing; onCancel: () => void }) {
  const [t, format] = [useMessages(), useFormats()];
  switch (importing.status) {
    case "idle":
      return null;
    case "reading": {
      const share = importing.totalBytes > 0 ? importing.doneBytes / importing.totalBytes : 0;
      const text = t.data.reading(importing.name, format.percent(share));
      return (
        <div class="importing">
          <p>{text}</p>
          <ProgressBar label={text} share={share} />
          <button type="button" onClick={onCancel}>
            {t.data.cancel}
          </button>
        </div>
      );
    }
    case "imported": {
      const { dataset, skipped, skippedCount } = importing;
      return (
        <div class="importing" role="status">
          <p>{t.data.imported(dataset.name, format.whole(dataset.cases))}</p>
          {skippedCount > 0 && (
            <>
              <p>{t.data.skipped(format.whole(skippedCount))}</p>
              <ul class="row-errors">
                {skipped.map(({ row, message }) => (
                  <li key={row}>{t.data.row(String(row), message)}</li>
                ))}
                {skippedCount > skipped.length && <li>{t.data.more(format.whole(skippedCount - skipped.length))}</li>}
              </ul>
            </>
          )}
        </div>
      );
    }
    case "failed":
      return (
        <div class="importing" role="alert">
          <p class="bad">
            {t.data.failed(importing.name)} {wordsOf(importing.trouble, t)}
          </p>
        </div>
      );
  }
}
