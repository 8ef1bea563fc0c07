// The files of a model: what they are checked against and how far they are; fetch, pause, go on, delete.

import type { HubFile } from "./hub.ts";
import type { JobProgress } from "./job.ts";
import type { PanelProps } from "./Page.tsx";
import type { State, Work } from "./state.ts";
import { wordsOf } from "./words.ts";

type Shown = Exclude<Work, { status: "opening" | "choosing" | "listing" }>;

export function FilesPanel({ state, actions }: PanelProps) {
  const work = state.work.value;
  if (work.status === "opening" || work.status === "choosing" || work.status === "listing") return null;
  const { t } = wordsOf(state);
  const { repository, commit, files } = work.status === "listed" ? work.snapshot : work.job;
  return (
    <section class="card" aria-labelledby="files-title">
      <header class="card-head">
        <h2 id="files-title">{t.files.title}</h2>
        <span
          role="status"
          class={`status ${work.status === "fetching" ? "running" : work.status === "whole" ? "finished" : ""}`}
        >
          {t.files.status[work.status]}
        </span>
      </header>
      <p class="lead">{t.files.commit(repository, commit)}</p>
      <div class="scroll" tabIndex={0}>
        <table>
          <thead>
            <tr>
              <th scope="col">{t.files.file}</th>
              <th scope="col">{t.files.size}</th>
              <th scope="col">{t.files.checksum}</th>
              <th scope="col">{t.files.state}</th>
            </tr>
          </thead>
          <tbody>
            {files.map((file) => (
              <Row key={file.path} file={file} work={work} state={state} actions={actions} />
            ))}
          </tbody>
        </table>
      </div>
      <Controls work={work} state={state} actions={actions} />
    </section>
  );
}

function Row({ file, work, state, actions }: PanelProps & { file: HubFile; work: Shown }) {
  const { t, bytes } = wordsOf(state);
  const { path, sizeBytes, checksum } = file;
  const progress = state.progress.value.get(path);
  return (
    <tr>
      <th scope="row">
        {work.status === "listed" ? (
          <label class="check">
            <input
              type="checkbox"
              checked={work.chosen.has(path)}
              aria-label={t.files.include(path)}
              onChange={() => actions.toggle(path)}
            />
            <span>{path}</span>
          </label>
        ) : (
          path
        )}
      </th>
      <td>{bytes(sizeBytes)}</td>
      <td title={checksum.hex}>{t.checksum(checksum)}</td>
      <td>{work.status === "listed" ? "" : stateOf(progress, sizeBytes, state)}</td>
    </tr>
  );
}

function stateOf(progress: JobProgress | undefined, sizeBytes: number, state: State): string {
  const { t, percent } = wordsOf(state);
  if (!progress || (progress.phase === "waiting" && progress.haveBytes === 0)) return "";
  if (progress.phase === "whole") return t.files.phases.whole;
  return `${t.files.phases[progress.phase]}: ${t.files.part(percent(sizeBytes === 0 ? 1 : progress.haveBytes / sizeBytes))}`;
}

function Controls({ work, state, actions }: PanelProps & { work: Shown }) {
  const { t, bytes } = wordsOf(state);
  if (work.status === "listed") {
    const chosen = work.snapshot.files.filter(({ path }) => work.chosen.has(path));
    return (
      <div class="controls">
        <p class="quiet">{t.files.resumes}</p>
        <button type="button" class="primary" disabled={chosen.length === 0} onClick={() => void actions.fetch()}>
          {chosen.length === 0 ? t.files.none : t.files.fetch(bytes(total(chosen)))}
        </button>
      </div>
    );
  }
  const { files } = work.job;
  const have = files.reduce((sum, { path }) => sum + (state.progress.value.get(path)?.haveBytes ?? 0), 0);
  const all = total(files);
  return (
    <div class="controls">
      <progress class="bar" aria-label={t.files.progress} value={all === 0 ? 1 : have / all} max={1} />
      <p class="quiet">{t.files.total(bytes(have), bytes(all))}</p>
      <div class="buttons">
        {work.status === "fetching" && (
          <button type="button" onClick={() => void actions.pause()}>
            {t.files.pause}
          </button>
        )}
        {work.status === "pausing" && (
          <button type="button" disabled>
            {t.files.pausing}
          </button>
        )}
        {work.status === "paused" && (
          <button type="button" class="primary" onClick={() => void actions.goOn()}>
            {t.files.goOn}
          </button>
        )}
        {(work.status === "paused" || work.status === "whole") && (
          <button type="button" class="stop" onClick={() => void actions.remove()}>
            {t.files.remove}
          </button>
        )}
      </div>
    </div>
  );
}

const total = (files: HubFile[]): number => files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
