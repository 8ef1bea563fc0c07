// The chat template of a checkpoint: where it is found, how it is rendered, and how its model thinks and ends a reply.

import { openTemplate, type Template } from "./boundedTemplate.ts";

export interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ChatFormat {
  /** The template as it came, to write beside an exported model. */
  readonly source: string;
  /** Whether the prompt ends with "<think>", so that a reply goes on inside the thought. */
  readonly opensThought: boolean;
  /** What a reply ends with, as the template ends an earlier one. */
  readonly turnEnd: string;
  /** What the person's turn begins with, where that is a control token. */
  readonly userStart: string | null;
  /** The text up to where the model goes on. `thinking` is told to templates that ask for it. */
  prompt(messages: Message[], thinking: boolean): string;
}

/** bos_token and the like as text; what a model does not have is undefined. */
export interface TokenNames {
  bos: string | undefined;
  eos: string | undefined;
}

export interface TemplateFiles {
  chatTemplate?: string;
  chatTemplateJson?: unknown;
}

/**
 * Find the template, open it and try it. Null if there is none.
 *
 * Throws a sentence if it cannot be rendered, or if it is another model's: it then writes control tokens that are none here.
 */
export function openChatFormat(
  config: Record<string, unknown>,
  files: TemplateFiles,
  names: TokenNames,
  isToken: (text: string) => boolean,
): ChatFormat | null {
  const source = templateSource(config, files);
  if (source === null) return null;
  const template = openTemplate(source);
  for (const name of ["bos", "eos"] as const) {
    if (template.names.has(`${name}_token`) && names[name] === undefined) {
      throw new Error(
        `The chat template writes ${name}_token and tokenizer_config.json names none. Choose the files of one checkpoint.`,
      );
    }
  }
  const values = { bos_token: names.bos, eos_token: names.eos };
  const prompt = prompter(template, values);
  const opensThought = /<think>\s*$/u.test(prompt([{ role: "user", content: QUESTION }], true));
  return { source, opensThought, ...tryOut(template, values, names.eos, isToken), prompt };
}

/** chat_template.jinja, else what tokenizer_config.json says, else chat_template.json. */
function templateSource(config: Record<string, unknown>, files: TemplateFiles): string | null {
  if (files.chatTemplate !== undefined) return files.chatTemplate;
  const json = files.chatTemplateJson;
  const inJson = typeof json === "object" && json !== null && "chat_template" in json ? json.chat_template : undefined;
  const found = config.chat_template ?? inJson ?? null;
  if (found === null || typeof found === "string") return found;
  const named = Array.isArray(found) ? found.filter(isNamed) : [];
  const chosen = named.length === 1 ? named[0] : named.find(({ name }) => name === "default");
  if (chosen) return chosen.template;
  throw new Error(
    named.length > 0
      ? `tokenizer_config.json has the chat templates ${named.map(({ name }) => name).join(", ")}, and none of them is "default". Name one so.`
      : "tokenizer_config.json has a chat_template that is neither a text nor a list of named texts. Choose the one that came with the model.",
  );
}

function isNamed(entry: unknown): entry is { name: string; template: string } {
  const { name, template } = (entry ?? {}) as Record<string, unknown>;
  return typeof name === "string" && typeof template === "string";
}

function prompter(template: Template, values: Record<string, unknown>): ChatFormat["prompt"] {
  return (messages, thinking) =>
    template.render({
      ...values,
      messages,
      add_generation_prompt: true,
      enable_thinking: thinking, // Qwen3
      thinking, // DeepSeek-V3.1
    });
}

const QUESTION = "Is it raining?";
const ANSWER = "It is not.";

/** A question and its answer, as the template writes them. */
function tryOut(
  template: Template,
  values: Record<string, unknown>,
  eos: string | undefined,
  isToken: (text: string) => boolean,
): Pick<ChatFormat, "turnEnd" | "userStart"> {
  const text = template.render({
    ...values,
    messages: [
      { role: "user", content: QUESTION },
      { role: "assistant", content: ANSWER },
    ],
    add_generation_prompt: false,
  });
  const [from, to] = [text.indexOf(QUESTION), text.lastIndexOf(ANSWER)];
  if (from < 0 || to < 0) {
    throw new Error(
      "The chat template leaves out the question or the answer of a conversation. Choose the one that came with the model.",
    );
  }
  const written = [...text.matchAll(CONTROL)].map(([token]) => token);
  const foreign = written.find((token) => !isToken(token));
  if (foreign) {
    throw new Error(
      `The chat template writes ${foreign}, which is no token of tokenizer.json: they are of two models. Choose the files of one checkpoint.`,
    );
  }
  const [after] = text.slice(to + ANSWER.length).match(CONTROL) ?? [eos];
  if (after === undefined) {
    throw new Error(
      "Neither the chat template nor tokenizer_config.json says what ends a reply. Choose the files of one checkpoint.",
    );
  }
  const before = [...text.slice(0, from).matchAll(CONTROL)].map(([token]) => token);
  // <|im_start|> begins every turn; <｜User｜> only the person's. Either way a reply is over where it comes.
  return { turnEnd: after, userStart: before.filter((token) => token !== values.bos_token).at(-1) ?? null };
}

/** Control tokens as DeepSeek and Qwen write them. */
const CONTROL = /<[|｜][^<>]*[|｜]>/gu;
