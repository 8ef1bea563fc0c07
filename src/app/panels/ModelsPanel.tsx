// Models: the one that comes with the page, and those that the person brings.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import { builtinRecipes } from "../../recipes/builtin.ts";
import { listedFiles, type PlacedFile } from "../chosenFiles.ts";
import { type PanelProps, useFormats, useMessages, wordsOf } from "../context.ts";
import { isWhole, shareKept, storageNames, unfinishedOf } from "../keeping.ts";
import { type Bringing, isAtWork, type ModelRecord } from "../state.ts";
import { Announcer } from "../widgets/Announcer.tsx";
import { Card } from "../widgets/Card.tsx";
import { DropZone } from "../widgets/DropZone.tsx";
import { ProgressBar } from "../widgets/ProgressBar.tsx";
import { KeepingForm } from "./KeepingForm.tsx";

/** Models that lie beside the page. */
export const shippedModels = [...new Set(Object.values(builtinRecipes).map((recipe) => recipe("full").model))];

export function ModelsPanel({ state, actions }: PanelProps) {
  const t = useMessages();
  const bringing = state.bringing.value;
  const busy = bringing.status === "looking" || bringing.status === "importing";
  return (
    <Card title={t.models.title} lead={t.models.lead} class="models">
      <ul class="file-list">
        {shippedModels.map((name) => (
          <li key={name}>
            <span class="file-name">
              {name}
              <span class="quiet">{t.models.shipped}</span>
            </span>
          </li>
        ))}
        {state.models.value.map((model) => (
          <ModelItem
            key={model.id}
            model={model}
            disabled={bringing.status === "importing" || isAtWork(state.run.value.status)}
            onDelete={() => void actions.deleteModel(model.id)}
          />
        ))}
      </ul>
      <DropZone disabled={busy} onFiles={(files) => void actions.bringModel(files)}>
        <div class="buttons">
          <FileButton label={t.models.chooseFolder} folder disabled={busy} onFiles={actions.bringModel} />
          <FileButton label={t.models.chooseFiles} disabled={busy} onFiles={actions.bringModel} />
        </div>
        <p class="quiet">{t.models.drop}</p>
      </DropZone>
      <Focused when={bringing.status}>
        <BringingState state={state} actions={actions} />
      </Focused>
    </Card>
  );
}

interface ModelItemProps {
  model: ModelRecord;
  disabled: boolean;
  onDelete: () => void;
}

function ModelItem({ model, disabled, onDelete }: ModelItemProps) {
  const [t, format] = [useMessages(), useFormats()];
  const { name, parameters, sizeBytes } = model;
  const storage = storageNames[model.storage];
  return (
    <li>
      <span class="file-name">
        {name}
        <span class="quiet">{t.models.facts(format.short(parameters), storage, format.bytes(sizeBytes))}</span>
        {!isWhole(model) && <span class="quiet">{t.models.unfinished(format.percent(shareKept(model)))}</span>}
      </span>
      <button
        type="button"
        aria-label={t.models.deleteNamed(name, storage)}
        disabled={disabled}
        onClick={() => confirm(t.models.confirm(name, storage)) && onDelete()}
      >
        {t.runs.delete}
      </button>
    </li>
  );
}

interface FileButtonProps {
  label: string;
  /** A folder is to be chosen, not files. */
  folder?: boolean;
  disabled: boolean;
  onFiles: (files: PlacedFile[]) => Promise<void>;
}

function FileButton({ label, folder = false, disabled, onFiles }: FileButtonProps) {
  const id = useId();
  return (
    <span>
      <label class={disabled ? "file-button disabled" : "file-button"} for={id}>
        {label}
      </label>
      <input
        id={id}
        class="visually-hidden"
        type="file"
        multiple
        ref={(input) => {
          if (input) input.webkitdirectory = folder;
        }}
        disabled={disabled}
        onChange={({ currentTarget: input }) => {
          const files = listedFiles(input.files as FileList);
          input.value = ""; // The same can be chosen again.
          void onFiles(files);
        }}
      />
    </span>
  );
}

/** Takes the focus when what had it is gone, so that a keyboard goes on from here. */
function Focused({ when, children }: { when: Bringing["status"]; children: ComponentChildren }) {
  const place = useRef<HTMLDivElement>(null);
  const before = useRef(when);
  useEffect(() => {
    if (before.current !== when && document.activeElement === document.body) place.current?.focus();
    before.current = when;
  }, [when]);
  return (
    <div class="bringing" ref={place} tabIndex={-1}>
      {children}
    </div>
  );
}

function BringingState({ state, actions }: PanelProps) {
  const [t, format] = [useMessages(), useFormats()];
  const bringing = state.bringing.value;
  switch (bringing.status) {
    case "idle":
      return null;
    case "looking": {
      const text = bringing.name === null ? t.models.lookingAtFiles : t.models.looking(bringing.name);
      return (
        <>
          <p role="status">{text}</p>
          <ProgressBar label={text} share={null} />
        </>
      );
    }
    case "choosing":
      return <KeepingForm choice={bringing} models={state.models.value} actions={actions} />;
    case "importing":
      return <Importing bringing={bringing} onCancel={() => void actions.cancelModelImport()} />;
    case "stopped": {
      const { chosen, storage } = bringing;
      const begun = unfinishedOf(chosen.files, state.models.value).find((model) => model.storage === storage);
      return (
        <>
          <p role="status">
            {begun
              ? t.models.stopped(chosen.name, format.percent(shareKept(begun)))
              : t.models.stoppedEarly(chosen.name)}
          </p>
          <div class="buttons">
            <button type="button" class="primary" onClick={() => void actions.importModel()}>
              {t.models.goOn}
            </button>
            <button type="button" onClick={actions.dismissModel}>
              {t.close}
            </button>
          </div>
        </>
      );
    }
    case "brought": {
      const { id, name, storage } = bringing.model;
      const chosen = state.draft.value.recipe.model === id;
      return (
        <>
          <p role="status">{t.models.brought(name, storageNames[storage])}</p>
          <div class="buttons">
            <button
              type="button"
              class="primary"
              disabled={chosen || isAtWork(state.run.value.status)}
              onClick={() => void actions.chooseModel(id)}
            >
              {chosen ? t.models.used : t.models.use}
            </button>
            <button type="button" onClick={actions.dismissModel}>
              {t.close}
            </button>
          </div>
        </>
      );
    }
    case "failed":
      return (
        <p class="bad" role="alert">
          {bringing.name === null ? t.models.failedFiles : t.models.failed(bringing.name)}{" "}
          {wordsOf(bringing.trouble, t)}
        </p>
      );
  }
}

interface ImportingProps {
  bringing: Extract<Bringing, { status: "importing" }>;
  onCancel: () => void;
}

function Importing({ bringing: { chosen, progress, stopping }, onCancel }: ImportingProps) {
  const [t, format] = [useMessages(), useFormats()];
  const share = progress && progress.totalBytes > 0 ? progress.doneBytes / progress.totalBytes : null;
  const phase = t.models.phases[progress?.phase ?? "checking"];
  const text = `${chosen.name}: ${stopping ? t.models.stopping : phase}`;
  return (
    <>
      <p>{text}</p>
      <ProgressBar label={text} share={share} />
      <p class="quiet progress-numbers">
        {progress &&
          t.models.amount(
            format.percent(share ?? 0),
            format.bytes(progress.doneBytes),
            format.bytes(progress.totalBytes),
          )}
      </p>
      <Announcer text={share === null ? text : `${text} ${format.percent(share)}`} />
      <button type="button" disabled={stopping} onClick={onCancel}>
        {t.models.cancel}
      </button>
    </>
  );
}
