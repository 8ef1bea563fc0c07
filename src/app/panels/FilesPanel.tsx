// What a finished run made, to be taken away.

import { type PanelProps, useFormats, useMessages } from "../context.ts";
import type { FileRecord } from "../state.ts";
import { Card } from "../widgets/Card.tsx";

const GROUPS = ["report", "adapter", "base", "model"] as const;
type Group = (typeof GROUPS)[number];

export function FilesPanel({ state, actions }: PanelProps) {
  const t = useMessages();
  const files = state.files.value;
  return (
    <Card title={t.files.title} lead={t.files.lead} class="files">
      {files.length === 0 ? (
        <p class="empty">{t.files.empty}</p>
      ) : (
        <>
          {GROUPS.map((group) => (
            <FileGroup
              key={group}
              name={t.files.groups[group]}
              files={files.filter((file) => groupOf(file) === group)}
              onSave={actions.saveFile}
            />
          ))}
          <button type="button" class="primary" onClick={() => void actions.saveAll()}>
            {t.files.saveAll}
          </button>
        </>
      )}
    </Card>
  );
}

function groupOf({ name }: FileRecord): Group {
  const [folder] = name.split("/");
  return GROUPS.find((group) => group === folder) ?? "report";
}

interface FileGroupProps {
  name: string;
  files: FileRecord[];
  onSave: (name: string) => Promise<void>;
}

function FileGroup({ name, files, onSave }: FileGroupProps) {
  const [t, format] = [useMessages(), useFormats()];
  if (files.length === 0) return null;
  return (
    <>
      <h3>{name}</h3>
      <ul class="file-list">
        {files.map((file) => (
          <li key={file.name}>
            <span class="file-name">
              {file.name.split("/").at(-1)}
              <span class="quiet" title={`${t.files.sha} ${file.sha256}`}>
                {format.bytes(file.sizeBytes)} · {t.files.sha} {file.sha256.slice(0, 12)}…
              </span>
            </span>
            <button type="button" aria-label={t.files.saveNamed(file.name)} onClick={() => void onSave(file.name)}>
              {t.files.save}
            </button>
          </li>
        ))}
      </ul>
    </>
  );
}
