// What matters: the scores as heatmaps, with a table that says the same.

import { useSignal } from "@preact/signals";
import { type PanelProps, useFormats, useMessages } from "../context.ts";
import type { Plan, Scores } from "../../protocol/report.ts";
import { Card } from "../widgets/Card.tsx";
import { type Grid, grids } from "../widgets/grids.ts";
import { type Cell, Heatmap } from "../widgets/Heatmap.tsx";
import { Scroll } from "../widgets/Scroll.tsx";

export function ScoresPanel({ state }: Pick<PanelProps, "state">) {
  const [t, format] = [useMessages(), useFormats()];
  const view = state.view.value;
  if (!view?.scores) return null;
  const { scores, plan } = view;
  return (
    <Card title={t.scores.title} lead={t.scores.lead} class="scores">
      <HeatKey />
      {gridsOf(scores, plan).map((grid) => (
        <GridFigure key={grid.kind} grid={grid} />
      ))}
      <p class="quiet">
        {t.scores.methods[scores.method]}.{" "}
        {t.scores.reliability(format.decimal(scores.splitHalfCorrelation, 2), format.whole(scores.cases))}
      </p>
      <details class="more">
        <summary>{t.scores.table}</summary>
        <ScoreTable scores={scores} />
      </details>
    </Card>
  );
}

// Grids are drawn again when they are other objects: the same scores and plan give the same grids.
const made = new WeakMap<Scores, { plan: Plan | null; grids: Grid[] }>();

function gridsOf(scores: Scores, plan: Plan | null): Grid[] {
  const known = made.get(scores);
  if (known && known.plan === plan) return known.grids;
  const fresh = { plan, grids: grids(scores, plan) };
  made.set(scores, fresh);
  return fresh.grids;
}

function HeatKey() {
  const t = useMessages();
  return (
    <p class="heat-key" aria-hidden="true">
      {t.scores.least} <span class="heat-scale" /> {t.scores.most} <span class="cut-mark" /> {t.scores.cut}
      <span class="heat-hint">{t.scores.hover}</span>
    </p>
  );
}

function GridFigure({ grid }: { grid: Grid }) {
  const [t, format] = [useMessages(), useFormats()];
  const pointed = useSignal<Cell | null>(null);
  const name = t.scores[grid.kind];
  const read = ({ layer, part }: Cell) => {
    const text = t.scores.cell(name, String(layer), String(part), format.precise(grid.scores[layer][part]));
    return grid.kept ? `${text} · ${grid.kept[layer][part] ? t.scores.kept : t.scores.cut}` : text;
  };
  return (
    <figure class="grid-figure">
      <figcaption>
        <h3>{name}</h3>
        <p class="quiet read-out">{pointed.value && read(pointed.value)}</p>
      </figcaption>
      <div class="grid-body">
        <ol class="grid-rows" start={0} aria-hidden="true">
          {grid.scores.map((_, layer) => (
            <li key={layer}>{layer}</li>
          ))}
        </ol>
        <Heatmap grid={grid} label={`${name}. ${t.scores.lead}`} onPoint={(cell) => (pointed.value = cell)} />
      </div>
    </figure>
  );
}

function ScoreTable({ scores }: { scores: Scores }) {
  const [t, format] = [useMessages(), useFormats()];
  const sum = (values: number[]) => (values.length === 0 ? "–" : format.precise(values.reduce((a, b) => a + b, 0)));
  return (
    <Scroll>
      <table>
        <caption>{t.scores.tableHint}</caption>
        <thead>
          <tr>
            <th scope="col">{t.scores.layerHeader}</th>
            <th scope="col">{t.scores.heads}</th>
            <th scope="col">{t.scores.experts}</th>
            <th scope="col">{t.scores.channels}</th>
            <th scope="col">{t.scores.attention}</th>
            <th scope="col">{t.scores.ffn}</th>
            <th scope="col">{t.scores.wholeLayer}</th>
          </tr>
        </thead>
        <tbody>
          {scores.layers.map((layer, index) => (
            <tr key={index}>
              <th scope="row">{index}</th>
              <td>{sum(layer.heads)}</td>
              <td>{sum(layer.experts)}</td>
              <td>{sum([...layer.channels, ...layer.expertChannels.flat()])}</td>
              <td>{format.precise(layer.attention)}</td>
              <td>{format.precise(layer.ffn)}</td>
              <td>{format.precise(layer.layer)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
