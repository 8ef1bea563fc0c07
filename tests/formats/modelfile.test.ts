import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { chatFormOf, modelfile } from "../../src/formats/modelfile.ts";

interface Message {
  Role: string;
  Content: string;
}

/** As much of Go's templates as a Modelfile needs: range, if, else if, end, fields, and dashes that trim. */
function render(template: string, messages: Message[]): string {
  const trimmed = template.replace(/\s*\{\{-/g, "{{").replace(/-\}\}\s*/g, "}}");
  const [, head, body, tail] = /^(.*?)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}(.*?)$/s.exec(trimmed)!;
  const one = ({ Role, Content }: Message) => {
    let [taken, active] = [false, true];
    return body
      .split(/(\{\{.*?\}\})/)
      .map((part) => {
        const asked = /(?:else )?if eq \.Role "(\w+)"/.exec(part);
        if (asked) {
          if (!part.includes("else")) taken = false;
          active = !taken && asked[1] === Role;
          taken ||= active;
          return "";
        }
        active ||= part === "{{ end }}";
        if (part === "{{ end }}") return "";
        if (!active) return "";
        return part.replace("{{ .Role }}", Role).replace("{{ .Content }}", Content);
      })
      .join("");
  };
  return head + messages.map(one).join("") + tail;
}

const templateOf = (text: string) => /TEMPLATE """(.*?)"""/s.exec(text)![1];
const talk = [
  { Role: "system", Content: "SYS" },
  { Role: "user", Content: "Q1" },
  { Role: "assistant", Content: "A1" },
  { Role: "user", Content: "Q2" },
];
const options = { gguf: "model.gguf", temperature: 0.6, contextLength: 512 };

it("writes DeepSeek's form as the chat template does, but for the begin token, which the file adds", () => {
  const text = modelfile({ ...options, form: "deepseek", thinks: true });
  expect(render(templateOf(text), talk)).toBe(
    "SYS<｜User｜>Q1<｜Assistant｜>A1<｜end▁of▁sentence｜><｜User｜>Q2<｜Assistant｜><think>\n",
  );
  expect(text.startsWith("FROM ./model.gguf\nTEMPLATE")).toBe(true);
  expect(text).toContain('PARAMETER stop "<｜end▁of▁sentence｜>"\n');
  expect(text).toContain("PARAMETER temperature 0.6\nPARAMETER num_ctx 512\n");
  const plain = modelfile({ ...options, form: "deepseek", thinks: false });
  expect(render(templateOf(plain), talk.slice(1, 2))).toBe("<｜User｜>Q1<｜Assistant｜>");
});

it("writes ChatML as the chat template does, with an adapter on top", () => {
  const text = modelfile({ ...options, adapter: "adapter.gguf", form: "chatml", thinks: false });
  expect(render(templateOf(text), talk)).toBe(
    "<|im_start|>system\nSYS<|im_end|>\n<|im_start|>user\nQ1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n" +
      "<|im_start|>user\nQ2<|im_end|>\n<|im_start|>assistant\n",
  );
  expect(text).toContain("ADAPTER ./adapter.gguf\n");
});

it("tells the form by the chat template and refuses others", () => {
  const nano = JSON.parse(readFileSync("public/models/deepseek-nano/tokenizer_config.json", "utf8")).chat_template;
  expect(chatFormOf(nano)).toEqual({ form: "deepseek", thinks: true });
  expect(chatFormOf("{{'<｜Assistant｜><think>\\n'}}<｜User｜>")).toEqual({ form: "deepseek", thinks: true });
  expect(chatFormOf("{{'<｜User｜>'}}{{'<｜Assistant｜>'}}")).toEqual({ form: "deepseek", thinks: false });
  expect(chatFormOf("<|im_start|>user")).toEqual({ form: "chatml", thinks: false });
  expect(() => chatFormOf("[INST]")).toThrow("neither DeepSeek's");
});
