// What was cut: the pruned model as a trained tree, and the counts beside it.

import { type PanelProps, useFormats, useMessages } from "../context.ts";
import type { Plan, Scores } from "../../protocol/report.ts";
import { Card } from "../widgets/Card.tsx";
import { type Branch, Espalier } from "../widgets/Espalier.tsx";
import { Scroll } from "../widgets/Scroll.tsx";

export function PlanPanel({ state }: Pick<PanelProps, "state">) {
  const [t, format] = [useMessages(), useFormats()];
  const view = state.view.value;
  if (!view?.plan || !view.scores) return null;
  const counts = countsOf(view.scores, view.plan);
  return (
    <Card
      title={t.plan.title}
      lead={t.plan.lead(format.percent(view.plan.removedShare), format.whole(view.plan.removedParameters))}
      class="plan"
    >
      <Espalier branches={counts.map(branchOf)} label={t.plan.drawing} numbered />
      <p class="quiet">{t.plan.drawing}</p>
      <PlanTable counts={counts} />
    </Card>
  );
}

function PlanTable({ counts }: { counts: LayerCounts[] }) {
  const [t, format] = [useMessages(), useFormats()];
  const share = (kept: boolean[]) =>
    kept.length === 0
      ? t.results.none
      : t.plan.kept(format.whole(kept.filter(Boolean).length), format.whole(kept.length));
  return (
    <Scroll>
      <table>
        <thead>
          <tr>
            <th scope="col">{t.scores.layerHeader}</th>
            <th scope="col">{t.plan.heads}</th>
            <th scope="col">{t.plan.experts}</th>
            <th scope="col">{t.plan.channels}</th>
          </tr>
        </thead>
        <tbody>
          {counts.map((layer, index) => (
            <tr key={index}>
              <th scope="row">{index}</th>
              <td>{share(layer.heads)}</td>
              <td>{share(layer.experts)}</td>
              <td>{share(layer.channels)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

interface LayerCounts {
  heads: boolean[];
  experts: boolean[];
  /** Of the dense FFN or shared expert, and of the routed experts. */
  channels: boolean[];
}

const marks = (all: unknown[], indices: number[]) => all.map((_, at) => indices.includes(at));

function countsOf(scores: Scores, plan: Plan): LayerCounts[] {
  return scores.layers.map((layer, index) => {
    const kept = plan.layers[index];
    return {
      heads: marks(layer.heads, kept.heads),
      experts: marks(layer.experts, kept.experts),
      channels: [
        ...marks(layer.channels, kept.channels),
        ...layer.expertChannels.flatMap((channels, expert) =>
          marks(channels, kept.expertChannels[kept.experts.indexOf(expert)] ?? []),
        ),
      ],
    };
  });
}

const branchOf = ({ heads, experts, channels }: LayerCounts): Branch => ({
  heads,
  experts,
  channels: channels.length === 0 ? null : channels.filter(Boolean).length / channels.length,
});
