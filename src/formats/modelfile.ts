// The Modelfile that tells Ollama how to run a GGUF file: where it is, how a conversation is written, when to stop.

/** How conversations are written for a model. */
export type ChatForm = "deepseek" | "chatml";

export interface ModelfileOptions {
  /** The model's file, beside the Modelfile. */
  gguf: string;
  /** A GGUF adapter on top of it. */
  adapter?: string;
  form: ChatForm;
  /** DeepSeek's form: every answer begins with a thought. */
  thinks: boolean;
  temperature: number;
  /** Tokens of a conversation that it can hold. */
  contextLength: number;
}

/**
 * The form that a chat template writes, by the tokens in it. Throws for another one: Ollama would fall back to one that the
 * model was not trained on.
 */
export function chatFormOf(template: string): Pick<ModelfileOptions, "form" | "thinks"> {
  if (template.includes("<｜User｜>")) {
    return { form: "deepseek", thinks: /<｜Assistant｜>(<think>|['"]\s*\+\s*['"]<think>)/.test(template) };
  }
  if (template.includes("<|im_start|>")) return { form: "chatml", thinks: false };
  throw new Error(
    "The chat template is neither DeepSeek's (<｜User｜>) nor ChatML (<|im_start|>), so no Modelfile can be written. Write its TEMPLATE by hand.",
  );
}

export function modelfile(options: ModelfileOptions): string {
  const { gguf, adapter, form, thinks, temperature, contextLength } = options;
  const { template, stop } = form === "deepseek" ? deepSeek(thinks) : CHATML;
  return [
    `FROM ./${gguf}`,
    ...(adapter === undefined ? [] : [`ADAPTER ./${adapter}`]),
    `TEMPLATE """${template}"""`,
    ...stop.map((word) => `PARAMETER stop "${word}"`),
    `PARAMETER temperature ${temperature}`,
    `PARAMETER num_ctx ${contextLength}`,
    "",
  ].join("\n");
}

// Go templates: "{{-" swallows the white space before it, so that these lines are one. The begin token is the file's to add.

function deepSeek(thinks: boolean): { template: string; stop: string[] } {
  const opening = thinks ? "<｜Assistant｜><think>\n" : "<｜Assistant｜>";
  const template = [
    "{{- range .Messages }}",
    '{{- if eq .Role "system" }}{{ .Content }}',
    '{{- else if eq .Role "user" }}<｜User｜>{{ .Content }}',
    '{{- else if eq .Role "assistant" }}<｜Assistant｜>{{ .Content }}<｜end▁of▁sentence｜>',
    "{{- end }}",
    `{{- end }}${opening}`,
  ].join("\n");
  return { template, stop: ["<｜end▁of▁sentence｜>", "<｜User｜>"] };
}

const CHATML = {
  template: [
    "{{- range .Messages }}<|im_start|>{{ .Role }}",
    "{{ .Content }}<|im_end|>",
    "{{ end }}<|im_start|>assistant",
    "",
  ].join("\n"),
  stop: ["<|im_end|>", "<|im_start|>"],
};
