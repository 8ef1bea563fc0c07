// The README.md of a hand-over: what is in it, how it is started, and whatever is done otherwise than here.

import type { Report } from "../../protocol/report.ts";
import type { ToolFiles } from "./tool.ts";
import type { Tuning } from "./tuning.ts";

export interface HandOverFacts {
  report: Report;
  tunings: Tuning[];
  tools: ToolFiles[];
  /** What is to be known of the model's form. */
  note: string | null;
  /** Rows that no tool gets. */
  leftOut: number;
}

export function handOverText({ report, tunings, tools, note, leftOut }: HandOverFacts): string {
  const names = tools.map(({ title }) => title).join(", ");
  return `${[
    `# Hand-over of "${report.recipe.name}"`,
    `With this folder ${names} can do the tuning of the recipe on GPUs, beginning with the model as Espalier left it.`,
    "**It holds the training data as text.** Treat it as you treat the data, and delete it when it is no longer needed. " +
      "`export HF_HUB_OFFLINE=1` keeps the tools from asking a hub for anything.",
    list([
      `\`base/\`: the model (made from ${report.recipe.model}).${note ? ` ${note}` : ""}`,
      ...tools.map(({ title, folder }) => `\`${folder}/\`: data, settings and requirements for ${title}.`),
      "`SHA256SUMS`: `sha256sum -c SHA256SUMS` tells whether all arrived as it was written.",
    ]),
    "## Runs",
    runTable(tunings),
    "A run after the first goes on with the adapter of the one before." + wholeModelSentence(tunings),
    `A step takes the same number of cases on any number of GPUs only if *at a time* × *accumulated* × GPUs stays the batch: ` +
      "on 4 GPUs divide what is accumulated by 4.",
    ...tools.flatMap((tool) => [
      `## ${tool.title}`,
      `In \`${tool.folder}/\`:`,
      ["```", ...tool.commands(tunings), "```"].join("\n"),
    ]),
    "## What is done otherwise than in Espalier",
    list([
      ...sharedDifferences(tunings, leftOut),
      ...tools.flatMap((tool) => tool.differences.map((each) => `${tool.title}: ${each}`)),
    ]),
  ].join("\n\n")}\n`;
}

const list = (entries: string[]): string => entries.map((entry) => `- ${entry}`).join("\n");

function runTable(tunings: Tuning[]): string {
  const rows = tunings.map(
    ({ name, lora, steps, batch, atATime, learningRate, warmUpSteps, rows: count, maxLength }) => [
      name,
      lora ? `LoRA, rank ${lora.rank}, alpha ${lora.alpha}` : "all weights",
      steps,
      `${batch} (${atATime} at a time, ${batch / atATime} accumulated)`,
      `${learningRate}, reached after ${warmUpSteps}`,
      count,
      maxLength,
    ],
  );
  const head = ["run", "trains", "steps", "cases a step", "learning rate", "rows", "longest, tokens"];
  return [head, head.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

function wholeModelSentence(tunings: Tuning[]): string {
  const whole = tunings.find(({ lora, after }) => !lora && after);
  return whole
    ? ` The run ${whole.name} trains all weights: merge the adapter of ${whole.after} into base/ first, to where its settings look for it.`
    : "";
}

function sharedDifferences(tunings: Tuning[], leftOut: number): string[] {
  const [{ lora }] = tunings;
  const mixture = lora?.modules.includes("kv_b_proj");
  const unfreezes = tunings.some((tuning) => !tuning.lora);
  const mixes = tunings.some(({ modes }) => modes.length > 1);
  return [
    "They compute in bfloat16 with float32 for what is trained; Espalier computes in float32. Losses come out a little different.",
    "The rows are the same token by token: prompt and answer as the model's own template writes them, `<think>` where it stands here. Loss is on the answer alone, its end included, and every token of it weighs the same.",
    "A step's loss is the mean over its answer tokens, as here, where a tool counts them over all that is accumulated and over all GPUs; older versions average the parts, and short answers then weigh more.",
    "The learning rate rises from 0, here from its first part: the first step does nothing there. Then both fall along a cosine to a tenth of the peak.",
    "The order of the cases is drawn from the same seed by another generator, so the runs are alike and not the same.",
    ...(mixes
      ? [
          "Each case stands in the mixed data twice, with its chain and without; a step has half of each on average, here exactly.",
        ]
      : []),
    ...(mixture
      ? [
          "Adapters are on attention alone, here also on dense layers and shared experts: PEFT takes their names for those of the routed experts and loads such an adapter wrongly without a word.",
          "The bias that balances the experts stays as it is, here too.",
        ]
      : []),
    ...(unfreezes
      ? ["All layers are trained from the first step on; here they are unfrozen from the last one down."]
      : []),
    "There is no dropout, here as there. Rows are not packed.",
    ...(leftOut > 0
      ? [
          `${leftOut} rows are left out: their text spells a control token, which these tools would obey and Espalier spells out.`,
        ]
      : []),
  ];
}
