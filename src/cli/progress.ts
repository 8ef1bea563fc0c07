// A run's events as lines for a terminal: what lasts is a line of its own, what changes is one line written over.

import type { RunEvent } from "../protocol/run.ts";
import { duration, fileSize, percent, percentRange, whole } from "../evaluation/reportMarkup.ts";

/** A line, and whether it stays or is replaced by the next one. */
export interface ProgressLine {
  text: string;
  stays: boolean;
}

/** Returns a function from events to lines (null: nothing to say); it remembers where the run is. */
export function progressLines(nowMs: () => number = () => performance.now()): (event: RunEvent) => ProgressLine | null {
  let place = "";
  let first: { step: number; atMs: number } | null = null;
  const passing = (text: string) => ({ text: `${place}${text}`, stays: false });
  const staying = (text: string) => ({ text: `${place}${text}`, stays: true });

  return (event) => {
    switch (event.type) {
      case "stageStarted":
        place = `[${event.stage + 1}/${event.stages} ${event.kind}] `;
        first = null;
        return passing("started");
      case "step": {
        const { step, steps, loss, tokensPerSecond } = event;
        first ??= { step, atMs: nowMs() };
        const perStep = (nowMs() - first.atMs) / Math.max(1, step - first.step) / 1000;
        const left = step > first.step ? `, ${duration(perStep * (steps - step))} left` : "";
        return passing(`step ${step}/${steps}, loss ${loss.toFixed(3)}, ${whole(tokensPerSecond)} tokens/s${left}`);
      }
      case "memoryPlanned":
        return staying(`takes ${fileSize(event.bytes)} of memory`);
      case "scoring":
        return passing(`scored on ${event.done} of ${event.total} cases`);
      case "scored":
        return staying(`halves of the cases agree: ${event.scores.splitHalfCorrelation.toFixed(2)}`);
      case "pruned":
        return staying(`${whole(event.plan.removedParameters)} parameters cut (${percent(event.plan.removedShare)})`);
      case "stageEnded": {
        const { seconds, lossStart, lossEnd } = event.result;
        const loss =
          lossStart === null || lossEnd === null ? "" : `, loss ${lossStart.toFixed(3)} → ${lossEnd.toFixed(3)}`;
        return staying(`done in ${duration(seconds)}${loss}`);
      }
      case "evaluating":
        return passing(`asking (${event.point}, ${event.mode}): ${event.done} of ${event.total}`);
      case "evaluated": {
        const { point, mode, accuracy, interval } = event.evaluation;
        return staying(`${point}, ${mode}: ${percent(accuracy)} right (${percentRange(interval)})`);
      }
      case "measuringLatency":
        return passing(`measuring latency: ${event.done} of ${event.total}`);
      case "exporting":
        return passing(`writing ${event.name}`);
      case "checkpointed":
      case "finished":
        return null;
    }
  };
}

const REWRITE = "\r\u001b[2K";
const SECONDS_BETWEEN_LINES = 15;

/** Write lines to `stream`: passing ones over each other on a terminal, seldom elsewhere. */
export function writeProgress(stream: NodeJS.WriteStream): (line: ProgressLine) => void {
  let lastMs = Number.NEGATIVE_INFINITY;
  return ({ text, stays }) => {
    if (stream.isTTY) {
      const width = (stream.columns ?? 80) - 1;
      stream.write(`${REWRITE}${stays ? `${text}\n` : text.slice(0, width)}`);
      return;
    }
    const nowMs = performance.now();
    if (!stays && nowMs - lastMs < SECONDS_BETWEEN_LINES * 1000) return;
    lastMs = nowMs;
    stream.write(`${text}\n`);
  };
}
