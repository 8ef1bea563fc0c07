// Before and after: accuracy both ways, size, speed, and the stages.

import { type PanelProps, useFormats, useMessages } from "../context.ts";
import type { Evaluation, ModelSize, Report, StageResult } from "../../protocol/report.ts";
import { evaluationRows, type RunView } from "../view.ts";
import { Card } from "../widgets/Card.tsx";
import { Interval } from "../widgets/Interval.tsx";
import { ModelName } from "../widgets/ModelName.tsx";
import { Scroll } from "../widgets/Scroll.tsx";

export function ResultsPanel({ state }: Pick<PanelProps, "state">) {
  const t = useMessages();
  const view = state.view.value;
  if (!view || (view.evaluations.length === 0 && view.results.length === 0)) return null;
  return (
    <Card
      title={t.results.title}
      lead={
        <>
          {t.results.base} <ModelName model={view.recipe.model} models={state.models.value} />
        </>
      }
      class="results"
    >
      {view.evaluations.length > 0 && <EvaluationTable view={view} />}
      {view.report && (
        <div class="pair">
          <SizeTable before={view.report.model.before} after={view.report.model.after} />
          <LatencyTable latency={view.report.latency} />
        </div>
      )}
      <SliceTable view={view} />
      {view.results.length > 0 && <StageTable results={view.results} />}
    </Card>
  );
}

function EvaluationTable({ view }: { view: RunView }) {
  const [t, format] = [useMessages(), useFormats()];
  const rows = evaluationRows(view.evaluations);
  const n = Math.max(...view.evaluations.map((evaluation) => evaluation.n));
  return (
    <Scroll>
      <table class="evaluations">
        <caption>{t.results.tableCaption(format.whole(n))}</caption>
        <thead>
          <tr>
            <th scope="col" rowSpan={2}>
              {t.results.model}
            </th>
            <th scope="colgroup" colSpan={2}>
              {t.modes.direct}
            </th>
            <th scope="colgroup" colSpan={3}>
              {t.modes.chain}
            </th>
          </tr>
          <tr>
            <th scope="col">{t.results.accuracy}</th>
            <th scope="col">{t.results.f1}</th>
            <th scope="col">{t.results.accuracy}</th>
            <th scope="col">{t.results.f1}</th>
            <th scope="col">{t.results.chainsRight}</th>
          </tr>
        </thead>
        <tbody>
          {rows.map(({ point, chain, direct }) => (
            <tr key={point}>
              <th scope="row">{t.points[point]}</th>
              <Accuracy evaluation={direct} />
              <td>{direct ? format.decimal(direct.macroF1, 2) : t.results.none}</td>
              <Accuracy evaluation={chain} />
              <td>{chain ? format.decimal(chain.macroF1, 2) : t.results.none}</td>
              <td>{chain && chain.chainsRight !== null ? format.percent(chain.chainsRight) : t.results.none}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function Accuracy({ evaluation }: { evaluation: Evaluation | null }) {
  const [t, format] = [useMessages(), useFormats()];
  if (!evaluation) return <td>{t.results.none}</td>;
  const { accuracy, interval, mode } = evaluation;
  const [low, high] = interval.map((end) => format.decimal(100 * end, 0));
  return (
    <td>
      <div class="accuracy">
        <strong>{format.percent(accuracy, 1)}</strong>
        <Interval share={accuracy} interval={interval} kind={mode} />
        <span class="quiet" title={t.results.interval}>
          <span class="visually-hidden">{t.results.interval} </span>[{low}, {high}]
        </span>
      </div>
    </td>
  );
}

const SIZES = ["embedding", "attention", "denseFfn", "sharedExperts", "routedExperts", "router", "norms"] as const;

function SizeTable({ before, after }: { before: ModelSize; after: ModelSize }) {
  const [t, format] = [useMessages(), useFormats()];
  const row = (name: string, from: number, to: number, kind?: string) => (
    <tr key={name} class={kind ? undefined : "total"}>
      <th scope="row">
        {kind && <span class={`swatch ${kind}`} aria-hidden="true" />}
        {name}
      </th>
      <td>{format.whole(from)}</td>
      <td>{format.whole(to)}</td>
      <td>{from === 0 ? t.results.none : format.change(to / from - 1)}</td>
    </tr>
  );
  return (
    <div>
      <h3>{t.results.parameters}</h3>
      <SizeBars before={before} after={after} />
      <Scroll>
        <table>
          <thead>
            <tr>
              <td />
              <th scope="col">{t.results.before}</th>
              <th scope="col">{t.results.after}</th>
              <th scope="col">{t.results.change}</th>
            </tr>
          </thead>
          <tbody>
            {SIZES.filter((kind) => before[kind] > 0).map((kind) =>
              row(t.results.sizes[kind], before[kind], after[kind], kind),
            )}
            {row(t.results.total, before.total, after.total)}
          </tbody>
        </table>
      </Scroll>
    </div>
  );
}

/** Both models to one scale, by kind of parameter. */
function SizeBars({ before, after }: { before: ModelSize; after: ModelSize }) {
  const bar = (size: ModelSize, y: number) => {
    let x = 0;
    return SIZES.map((kind) => {
      const width = (400 * size[kind]) / before.total;
      x += width;
      return <rect key={kind} class={kind} x={x - width} y={y} width={Math.max(0, width - 1)} height={14} />;
    });
  };
  return (
    <svg class="size-bars" viewBox="0 0 400 36" aria-hidden="true" preserveAspectRatio="none">
      {bar(before, 0)}
      {bar(after, 20)}
    </svg>
  );
}

function LatencyTable({ latency }: { latency: Report["latency"] }) {
  const [t, format] = [useMessages(), useFormats()];
  if (!latency) return null;
  const { before, after } = latency;
  const time = (ms: number, spread: number) => (
    <td>
      {t.results.milliseconds(format.precise(ms))}{" "}
      <span class="quiet">{t.results.spread(format.precise(spread / 2))}</span>
    </td>
  );
  return (
    <div>
      <h3>{t.results.latency}</h3>
      <Scroll>
        <table>
          <thead>
            <tr>
              <td />
              <th scope="col">{t.results.before}</th>
              <th scope="col">{t.results.after}</th>
              <th scope="col">{t.results.change}</th>
            </tr>
          </thead>
          <tbody>
            <tr>
              <th scope="row">{t.results.prefill}</th>
              {time(before.prefillMs, before.prefillSpreadMs)}
              {time(after.prefillMs, after.prefillSpreadMs)}
              <td>{format.change(after.prefillMs / before.prefillMs - 1)}</td>
            </tr>
            <tr>
              <th scope="row">{t.results.decode}</th>
              {time(before.decodeMs, before.decodeSpreadMs)}
              {time(after.decodeMs, after.decodeSpreadMs)}
              <td>{format.change(after.decodeMs / before.decodeMs - 1)}</td>
            </tr>
          </tbody>
        </table>
      </Scroll>
      <p class="quiet">{t.results.repeats(format.whole(before.repeats))}</p>
    </div>
  );
}

/** The last evaluation of chains, case kind by case kind. */
function SliceTable({ view }: { view: RunView }) {
  const [t, format] = [useMessages(), useFormats()];
  const last = evaluationRows(view.evaluations)
    .filter(({ chain }) => chain)
    .at(-1);
  const evaluation = last?.chain;
  if (!last || !evaluation || evaluation.slices.length === 0) return null;
  return (
    <details class="more">
      <summary>{t.results.slices}</summary>
      <Scroll>
        <table>
          <caption>
            {t.points[last.point]}, {t.modes.chain}
          </caption>
          <thead>
            <tr>
              <th scope="col">{t.results.slice}</th>
              <th scope="col">{t.results.cases}</th>
              <th scope="col">{t.results.accuracy}</th>
            </tr>
          </thead>
          <tbody>
            {evaluation.slices.map(({ name, n, accuracy }) => (
              <tr key={name}>
                <th scope="row">{t.results.sliceName(name)}</th>
                <td>{format.whole(n)}</td>
                <td>{format.percent(accuracy, 1)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </details>
  );
}

function StageTable({ results }: { results: StageResult[] }) {
  const [t, format] = [useMessages(), useFormats()];
  const loss = (value: number | null) => (value === null ? t.results.none : format.decimal(value, 3));
  return (
    <details class="more">
      <summary>{t.results.stageTable}</summary>
      <Scroll>
        <table>
          <thead>
            <tr>
              <th scope="col">{t.results.stageName}</th>
              <th scope="col">{t.results.steps}</th>
              <th scope="col">{t.results.seconds}</th>
              <th scope="col">{t.results.tokensPerSecond}</th>
              <th scope="col">{t.results.lossStart}</th>
              <th scope="col">{t.results.lossEnd}</th>
              <th scope="col">{t.results.trainable}</th>
            </tr>
          </thead>
          <tbody>
            {results.map((result) => (
              <tr key={result.kind}>
                <th scope="row">{t.stageKinds[result.kind]}</th>
                <td>{result.steps > 0 ? format.whole(result.steps) : t.results.none}</td>
                <td>{format.duration(result.seconds)}</td>
                <td>{result.tokensPerSecond > 0 ? format.whole(result.tokensPerSecond) : t.results.none}</td>
                <td>{loss(result.lossStart)}</td>
                <td>{loss(result.lossEnd)}</td>
                <td>{result.trainableParameters > 0 ? format.whole(result.trainableParameters) : t.results.none}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </details>
  );
}
