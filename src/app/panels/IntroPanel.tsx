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

const UNCUT = EXAMPLE.map(({ heads, experts, ...rest }) => ({
  heads: heads.map(() => true),
  experts: experts && experts.map(() => true),
  ...rest,
}));

export function IntroPanel({ state }: Pick<PanelProps, "state">) {
  const t = useMessages();
  const prunes = state.recipe.value.stages.some(({ kind }) => kind === "prune");
  return (
    <Card title={t.intro.title} lead={prunes ? t.intro.lead : t.intro.leadUncut} class="intro">
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
          <Espalier branches={prunes ? EXAMPLE : UNCUT} label={t.plan.drawing} />
          {prunes && <figcaption class="quiet">{t.plan.key}</figcaption>}
        </figure>
      </div>
    </Card>
  );
}
