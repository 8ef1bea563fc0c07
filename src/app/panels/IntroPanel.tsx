// Before the first run: what the recipe will do, stage by stage.

import { type PanelProps, useMessages } from "../context.ts";
import { Card } from "../widgets/Card.tsx";
import { type Branch, Espalier } from "../widgets/Espalier.tsx";

/** A small tree, already pruned: what the page is about, at a glance. */
const EXAMPLE: Branch[] = [
  { heads: [true, true, false, true], experts: [true, true, true, false], channels: null },
  { heads: [true, false, true, true], experts: [true, false, true, true], channels: null },
  { heads: [true, true, true, false], experts: [true, true, true, true], channels: null },
];

export function IntroPanel({ state }: Pick<PanelProps, "state">) {
  const t = useMessages();
  return (
    <Card title={t.intro.title} lead={t.intro.lead} class="intro">
      <div class="intro-body">
        <ol class="steps">
          {state.recipe.value.stages.map((stage, index) => (
            <li key={index}>
              <h3>{t.stageKinds[stage.kind]}</h3>
              <p>{t.stageWhat[stage.kind]}</p>
            </li>
          ))}
        </ol>
        <figure>
          <Espalier branches={EXAMPLE} label={t.plan.drawing} />
          <figcaption class="quiet">{t.plan.key}</figcaption>
        </figure>
      </div>
    </Card>
  );
}
