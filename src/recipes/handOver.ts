// Hand-over to a cluster: a folder with which an existing tool goes on where this machine is too small. The training data
// leave with it, so it is written only where a recipe asks for it.

import { exampleTexts } from "../data/chat.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import type { ByteSink } from "../formats/bytes.ts";
import { checkpointTensors } from "../models/weights.ts";
import type { AnswerMode, Case } from "../protocol/data.ts";
import { exportsOf, type Handover, type Tool } from "../protocol/recipe.ts";
import { writeCheckpoint } from "./export/checkpoint.ts";
import { type Folder, inside, writeFolder } from "./export/folder.ts";
import { formForOthers } from "./export/forms.ts";
import type { ExportSource } from "./exports.ts";
import { axolotl } from "./handOver/axolotl.ts";
import { llamaFactory } from "./handOver/llamaFactory.ts";
import { handOverText } from "./handOver/text.ts";
import type { BaseFacts, Row, ToolFiles } from "./handOver/tool.ts";
import { trl } from "./handOver/trl.ts";
import { type Tuning, tuningsOf } from "./handOver/tuning.ts";

const TOOLS: Record<Tool, ToolFiles> = { llamaFactory, axolotl, trl };

/** Write handover/: the model as it is now, for each tool its data and run files, and a README.md with every difference. */
export async function handOver(source: ExportSource, { tools }: Handover): Promise<void> {
  const { model, files, tokenizer, study, report, host } = source;
  const exports = exportsOf(report.recipe);
  const form = formForOthers(model.config, exports.shape);
  const tunings = tuningsOf(report.recipe, form.config, tokenizer, study);
  const facts = factsOf(files.tokenizerConfig, tokenizer);
  const chosen = tools.map((tool) => TOOLS[tool]);
  let leftOut = 0;
  report.files.push(
    ...(await writeFolder(host, "handover", async (folder) => {
      const tensors = form.tensors(checkpointTensors(model));
      await writeCheckpoint(inside(folder, "base"), { config: form.config, tensors, parts: files, tokenizer, exports });
      for (const tool of chosen) {
        const own = inside(folder, tool.folder);
        for (const { name, modes } of tunings) {
          leftOut = Math.max(leftOut, await writeRows(own, tool, name, rowsOf(tokenizer, study.train, modes)));
        }
        await writeRows(own, tool, "validation", rowsOf(tokenizer, study.validation, modesOf(tunings)));
        for (const [file, content] of Object.entries(tool.files(tunings, facts))) await own.write(file, content);
      }
      await folder.write("README.md", handOverText({ report, tunings, tools: chosen, note: form.note, leftOut }));
    })),
  );
  report.notes = [
    ...(report.notes ?? []),
    "handover/: it holds the training data as text. Treat it as you treat the data.",
    ...(form.note ? [`handover/base: ${form.note}`] : []),
  ];
}

const modesOf = (tunings: Tuning[]): AnswerMode[] => [...new Set(tunings.flatMap(({ modes }) => modes))];

/** Each case once in each mode; null for a case whose text a tool would read as a command. */
function* rowsOf(tokenizer: Tokenizer, cases: Case[], modes: AnswerMode[]): Generator<Row | null> {
  for (const item of cases) for (const mode of modes) yield exampleTexts(tokenizer, item, mode);
}

const PIECE_CHARACTERS = 1 << 20;

/** Resolves with how many rows were left out. */
async function writeRows(
  folder: Folder,
  tool: ToolFiles,
  purpose: string,
  rows: Iterable<Row | null>,
): Promise<number> {
  let leftOut = 0;
  await folder.stream(tool.dataPath(purpose), async (sink: ByteSink) => {
    let text = "";
    const put = async () => {
      await sink.write(new TextEncoder().encode(text));
      text = "";
    };
    for (const row of rows) {
      if (row) text += `${JSON.stringify(tool.line(row))}\n`;
      else leftOut += 1;
      if (text.length >= PIECE_CHARACTERS) await put();
    }
    await put();
  });
  return leftOut;
}

function factsOf(tokenizerConfig: unknown, tokenizer: Tokenizer): BaseFacts {
  const { pad_token: pad, eos_token: eos } = tokenizerConfig as Record<string, unknown>;
  const named = (token: unknown): string | null => {
    const content = typeof token === "object" && token !== null && "content" in token ? token.content : token;
    return typeof content === "string" ? content : null;
  };
  return { padToken: named(pad), endToken: named(eos) ?? tokenizer.chat?.turnEnd ?? "" };
}
