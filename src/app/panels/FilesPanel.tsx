// What a finished run made, to be taken away.

import { type PanelProps, useFormats, useMessages } from "../context.ts";
import type { Formats } from "../i18n/format.ts";
import type { Messages } from "../i18n/messages.ts";
import type { FileRecord } from "../state.ts";
import { Card } from "../widgets/Card.tsx";
import { Note } from "./ExportFields.tsx";

const GROUPS = ["report", "model", "gguf", "adapter", "base", "handover"] as const;
type Group = (typeof GROUPS)[number];

/** A group of more is folded. */
const MOST_SHOWN = 6;

export function FilesPanel({ state, actions }: PanelProps) {
  const t = useMessages();
  const files = state.files.value;
  const notes = state.view.value?.report?.notes ?? [];
  return (
    <Card title={t.files.title} lead={t.files.lead} class="files">
      {files.length === 0 ? (
        <p class="empty">{t.files.empty}</p>
      ) : (
        <>
          {GROUPS.map((group) => (
            <FileGroup
              key={group}
              group={group}
              files={files.filter((file) => groupOf(file) === group)}
              notes={notesOn(group, notes)}
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

/** Notes begin with the folder that they are about. */
function notesOn(group: Group, notes: string[]): string[] {
  const own = notes.filter((note) => note.startsWith(`${group}/`));
  return [...new Set(own.map((note) => note.slice(note.indexOf(": ") + 2)))];
}

interface FileGroupProps {
  group: Group;
  files: FileRecord[];
  notes: string[];
  onSave: (name: string) => Promise<void>;
}

function FileGroup({ group, files, notes, onSave }: FileGroupProps) {
  const [t, format] = [useMessages(), useFormats()];
  if (files.length === 0) return null;
  const list = (
    <ul class="file-list">
      {files.map((file) => (
        <FileItem key={file.name} file={file} onSave={onSave} />
      ))}
    </ul>
  );
  return (
    <>
      <h3>{t.files.groups[group].name}</h3>
      <p class="quiet">{t.files.groups[group].what}</p>
      {notes.map((note) => (
        <Note key={note} note={note} />
      ))}
      {files.length > MOST_SHOWN ? (
        <details class="more">
          <summary>{t.files.all(format.whole(files.length), `${group}/`)}</summary>
          {list}
        </details>
      ) : (
        list
      )}
    </>
  );
}

function FileItem({ file, onSave }: { file: FileRecord; onSave: FileGroupProps["onSave"] }) {
  const [t, format] = [useMessages(), useFormats()];
  const { name, sizeBytes, sha256 } = file;
  const what = whatIs(name, t, format);
  return (
    <li>
      <span class="file-name">
        {name.slice(name.indexOf("/") + 1)}
        {what && <span class="quiet">{what}</span>}
        <span class="quiet" title={`${t.files.sha} ${sha256}`}>
          {format.bytes(sizeBytes)} · {t.files.sha} {sha256.slice(0, 12)}…
        </span>
      </span>
      <button type="button" aria-label={t.files.saveNamed(name)} onClick={() => void onSave(name)}>
        {t.files.save}
      </button>
    </li>
  );
}

/** Of files whose names do not tell; null of others. */
function whatIs(name: string, t: Messages, format: Formats): string | null {
  const last = name.split("/").at(-1) ?? name;
  const [, number, count] = /-(\d{5})-of-(\d{5})\.safetensors$/.exec(last) ?? [];
  if (count) return t.files.shard(format.whole(Number(number)), format.whole(Number(count)));
  switch (last) {
    case "SHA256SUMS":
      return t.files.checksums;
    case "model.safetensors.index.json":
      return t.files.shardIndex;
    case "Modelfile":
      return t.files.modelfile;
    default:
      return null;
  }
}
