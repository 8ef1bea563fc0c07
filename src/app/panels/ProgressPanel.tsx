// The run as it goes: where it is, what it is doing, the loss; and how to go on with one that was cut off.

import { type PanelProps, useFormats, useMessages, wordsOf } from "../context.ts";
import type { Formats } from "../i18n/format.ts";
import type { Messages } from "../i18n/messages.ts";
import type { Recipe } from "../../protocol/recipe.ts";
import { canResume, isAtWork, type ShownRun } from "../state.ts";
import { type Progress, type RunView, shareDone, trains } from "../view.ts";
import { Announcer } from "../widgets/Announcer.tsx";
import { Card } from "../widgets/Card.tsx";
import { LossChart } from "../widgets/LossChart.tsx";
import { ProgressBar } from "../widgets/ProgressBar.tsx";
import { Timeline } from "../widgets/Timeline.tsx";

export function ProgressPanel({ state, actions }: PanelProps) {
  const [t, format] = [useMessages(), useFormats()];
  const [run, view] = [state.run.value, state.view.value];
  if (!view || run.status === "none") return null;
  const now = describe(run, view, t, format);
  return (
    <Card
      title={t.progress.title}
      class="progress"
      aside={<span class={`status ${run.status}`}>{t.runs.statuses[statusOf(run)]}</span>}
    >
      <Timeline label={t.progress.title} parts={partsOf(view.recipe, t)} position={view.position} />
      <div class="now">
        <p class={run.status === "failed" ? "bad" : undefined}>{now}</p>
        {isAtWork(run.status) && <Speed progress={view.progress} memoryBytes={view.memoryBytes} />}
      </div>
      {isAtWork(run.status) && <ProgressBar label={now} share={shareDone(view.progress)} />}
      <Announcer text={now} />
      {canResume(run.status) && <Resume state={state} actions={actions} view={view} />}
      {view.curves.length > 0 ? (
        <LossChart curves={view.curves} totalSteps={plannedSteps(view.recipe)} />
      ) : (
        <p class="empty">{t.progress.chartEmpty}</p>
      )}
    </Card>
  );
}

const statusOf = (run: Exclude<ShownRun, { status: "none" }>) => (run.status === "stopping" ? "running" : run.status);

const partsOf = ({ stages }: Recipe, t: Messages): string[] => [
  t.progress.before,
  ...stages.map((stage) => t.stageKinds[stage.kind]),
  t.progress.after,
];

/** A control takes as many steps as its stage. */
const plannedSteps = ({ stages }: Recipe): number =>
  stages
    .filter(trains)
    .reduce((sum, stage) => sum + stage.steps * (stage.kind === "chains" && stage.control ? 2 : 1), 0);

function describe(run: Exclude<ShownRun, { status: "none" }>, view: RunView, t: Messages, format: Formats): string {
  switch (run.status) {
    case "running":
      return describeProgress(view.progress, t, format);
    case "finished":
      return t.progress.finished(format.duration(view.report?.seconds ?? 0));
    case "failed":
      return `${t.progress.failed} ${wordsOf(run.trouble, t)}`;
    case "stopping":
    case "stopped":
    case "interrupted":
    case "elsewhere":
      return t.progress[run.status];
  }
}

function describeProgress(progress: Progress, t: Messages, { whole }: Formats): string {
  switch (progress.what) {
    case "preparing":
      return t.progress.preparing;
    case "training":
      return t.progress.training(t.stageKinds[progress.kind], whole(progress.step), whole(progress.steps));
    case "scoring":
      return t.progress.scoring(whole(progress.done), whole(progress.total));
    case "evaluating":
      return t.progress.evaluating(
        t.points[progress.point],
        t.modes[progress.mode],
        whole(progress.done),
        whole(progress.total),
      );
    case "measuringLatency":
      return t.progress.measuringLatency(whole(progress.done), whole(progress.total));
    case "exporting":
      return t.progress.exporting(progress.name);
  }
}

function Speed({ progress, memoryBytes }: { progress: Progress; memoryBytes: number | null }) {
  const [t, format] = [useMessages(), useFormats()];
  if (progress.what !== "training") return null;
  return (
    <dl class="figures">
      <div>
        <dt>{t.progress.loss}</dt>
        <dd>{format.decimal(progress.loss, 3)}</dd>
      </div>
      <div>
        <dt>{t.progress.tokensPerSecond}</dt>
        <dd>{format.whole(progress.tokensPerSecond)}</dd>
      </div>
      {memoryBytes !== null && (
        <div>
          <dt>{t.progress.memory}</dt>
          <dd>{format.bytes(memoryBytes)}</dd>
        </div>
      )}
    </dl>
  );
}

function Resume({ state, actions, view }: PanelProps & { view: RunView }) {
  const t = useMessages();
  const run = state.run.value;
  if (run.status === "none") return null;
  const ready = state.engine.value.status === "ready" && state.answer.value.status !== "thinking";
  return (
    <div class="resume">
      <p class="quiet">{checkpointText(view, t)}</p>
      <div class="buttons">
        <button type="button" class="primary" disabled={!ready} onClick={() => void actions.resumeRun()}>
          {t.progress.resume}
        </button>
        <button type="button" onClick={() => confirm(t.runs.confirm) && void actions.deleteRun(run.runId)}>
          {t.progress.discard}
        </button>
      </div>
    </div>
  );
}

function checkpointText({ checkpoint, recipe }: RunView, t: Messages): string {
  if (!checkpoint) return t.progress.noCheckpoint;
  const stage = recipe.stages[checkpoint.stage];
  const name = stage ? t.stageKinds[stage.kind] : t.progress.after;
  return checkpoint.step > 0 ? t.progress.checkpoint(name, String(checkpoint.step)) : t.progress.checkpointStart(name);
}
