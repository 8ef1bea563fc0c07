// What was cut: the pruned model as a trained tree, and the counts beside it.

import { type PanelProps, useFormats, useMessages } from "../context.ts";
import type { Plan, Scores } from "../../protocol/report.ts";
import { Card } from "../widgets/Card.tsx";
import { type Branch, Espalier } from "../widgets/Espalier.tsx";

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
      <Espalier branches={counts.map(branchOf)} label={t.plan.drawing} />
      <p class="quiet">{t.plan.drawing}</p>
      <ul class="plan-list">
        {counts.map((layer, index) => (
          <li key={index}>
            <strong>{t.plan.layer(String(index))}</strong>
            {describe("heads", layer.heads)}
            {describe("experts", layer.experts)}
            {describe("channels", layer.channels)}
          </li>
        ))}
      </ul>
    </Card>
  );

  function describe(what: "heads" | "experts" | "channels", kept: boolean[]) {
    if (kept.length === 0) return null;
    return <span>{t.plan[what](format.whole(kept.filter(Boolean).length), format.whole(kept.length))}</span>;
  }
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
