import { describe, expect, it } from "vitest";
import { findColumns, type Imported, importCases } from "../../src/data/import.ts";

/** A file in pieces of a few bytes, so that characters and lines are cut anywhere. */
async function* chunks(text: string): AsyncGenerator<Uint8Array> {
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length; at += 5) yield bytes.subarray(at, at + 5);
}

async function* gbk(): AsyncGenerator<Uint8Array> {
  yield Uint8Array.of(0xb7, 0xa2, 0xc8, 0xc8); // 发热
}

const read = (name: string, text: string): Promise<Imported> => importCases({ name, chunks: chunks(text) });
const lines = (...rows: unknown[]): string => rows.map((row) => JSON.stringify(row)).join("\n");
const parts = ({ cases }: Imported) => cases.map(({ question, chain, answer }) => ({ question, chain, answer }));

const WANTED = [{ question: "Q", chain: "C", answer: "A" }];

describe("the same row is read from", () => {
  it.each([
    ["plain columns", lines({ question: "Q", chain: "C", answer: "A" })],
    ["prompt and completion", lines({ prompt: "Q", completion: "A", reasoning: "C" })],
    ["columns in any case", lines({ "Question ": " Q ", Think: "C", ANSWER: "A\n" })],
    ["Chinese columns", lines({ 问题: "Q", 推理: "C", 答案: "A" })],
    ["Alpaca without input", lines({ instruction: "Q", input: "", output: "<think>\nC\n</think>\n\nA" })],
    [
      "OpenAI messages",
      lines({
        messages: [
          { role: "user", content: "Q" },
          { role: "assistant", content: "<think>C</think>A" },
        ],
      }),
    ],
    [
      "messages with the reasoning apart",
      lines({
        messages: [
          { role: "user", content: "Q" },
          { role: "assistant", reasoning_content: "C", content: "A" },
        ],
      }),
    ],
    [
      "ShareGPT",
      lines({
        conversations: [
          { from: "human", value: "Q" },
          { from: "gpt", value: "C</think>A" }, // A template that opens the thought leaves only its end.
        ],
      }),
    ],
  ])("%s", async (_, text) => {
    expect(parts(await read("data.jsonl", text))).toEqual(WANTED);
  });

  it("a list of objects", async () => {
    expect(parts(await read("data.json", '[{"question":"Q","chain":"C","answer":"A"}]'))).toEqual(WANTED);
  });

  it.each(["csv", "tsv"])("a .%s file", async (kind) => {
    const text = "question,chain,answer\r\nQ,C,A\r\n".replaceAll(",", kind === "csv" ? "," : "\t");
    expect(parts(await read(`data.${kind}`, `\uFEFF${text}`))).toEqual(WANTED);
  });
});

it("sets Alpaca's input under the instruction, and a system message above the question", async () => {
  const alpaca = await read("a.jsonl", lines({ instruction: "Translate", input: "hello", output: "你好" }));
  expect(parts(alpaca)[0].question).toBe("Translate\nhello");
  const system = { role: "system", content: "Rules" };
  const [user, reply] = [
    { role: "user", content: "Q" },
    { role: "assistant", content: "A" },
  ];
  expect(parts(await read("a.jsonl", lines({ messages: [system, user, reply] })))[0].question).toBe("Rules\nQ");
});

it("says which columns it took, and takes the ones it is told", async () => {
  const text = lines({ prompt: "wrong", symptoms: "Q", answer: "wrong", result: 7 });
  expect((await read("a.jsonl", text)).columns).toEqual({ question: "prompt", answer: "answer" });
  const columns = { question: "symptoms", answer: "result" };
  const told = await importCases({ name: "a.jsonl", chunks: chunks(text) }, columns);
  expect(parts(told)).toEqual([{ question: "Q", chain: "", answer: "7" }]);
});

it("tells Chinese questions from English ones", async () => {
  const text = lines({ question: "患者 CT 正常？", answer: "是" }, { question: "Is 'ma' written 妈?", answer: "yes" });
  expect((await read("a.jsonl", text)).cases.map(({ language }) => language)).toEqual(["zh", "en"]);
});

it("lists each row that cannot be used with its line and its repair, and reads the others", async () => {
  const text = [
    lines({ question: "Q", chain: "C", answer: "A" }),
    "",
    "{broken",
    "[1]",
    lines({ question: "", answer: "A" }),
    lines({ question: "Q" }),
    lines({ question: ["Q"], answer: "A" }),
    lines({ question: "Q", answer: "<think>A" }),
  ].join("\n");
  const { cases, errors } = await read("a.jsonl", text);
  expect(cases).toMatchObject([{ id: "row-1", ...WANTED[0] }]);
  expect(errors.map(({ row }) => row)).toEqual([3, 4, 5, 6, 7, 8]);
  const messages = errors.map(({ message }) => message);
  expect(messages[0]).toMatch(/^This line is no JSON \(.*\)\. Each line holds one whole JSON object\.$/);
  expect(messages.slice(1)).toEqual([
    'This row is no JSON object. Write {"question": …, "answer": …}.',
    "The question is empty. Fill it in or delete the row.",
    "The answer is empty. Fill it in or delete the row.",
    '"question" holds a list or an object; a text is wanted.',
    "A <think> is never closed. Write </think> before the answer.",
  ]);
});

it("lists chats that are no question with an answer", async () => {
  const [user, reply] = [
    { role: "user", content: "Q" },
    { role: "assistant", content: "A" },
  ];
  const text = lines(
    { messages: [user, reply] },
    { messages: [user] },
    { messages: [user, reply, user, reply] },
    { a: 1 },
  );
  const { errors } = await read("a.jsonl", text);
  expect(errors).toEqual([
    { row: 2, message: "The messages should end with the assistant's reply to a user. Add the missing message." },
    { row: 3, message: "This chat has 2 questions; one a row is read. Put each question in a row of its own." },
    { row: 4, message: "This row has no list of messages. Write it as the other rows are." },
  ]);
});

describe("a file of which nothing can be used is refused:", () => {
  it.each([
    ["a.jsonl", "", "a.jsonl holds no rows."],
    ["a.jsonl", "x", "a.jsonl has no readable row. Line 1: This line is no JSON"],
    ["a.jsonl", lines({ question: "", answer: "" }), "No row of a.jsonl can be used. Line 1: The question is empty."],
    ["a.jsonl", lines({ foo: 1, bar: 2 }), "No column is called like a question: there are foo, bar."],
    [
      "a.csv",
      "question,foo\nQ,A",
      'No column is called like an answer: there are question, foo. Rename one to "answer"',
    ],
    ["a.csv", "", "The CSV file is empty."],
    ["a.json", "{}", "a.json should hold a list of objects"],
    ["a.json", "{", "If it has one object a line, call it .jsonl."],
    ["a.xlsx", "PK", "a.xlsx is no file of rows that can be read: .jsonl, .json, .csv and .tsv can."],
  ])("%s with %j", async (name, text, message) => {
    await expect(read(name, text)).rejects.toThrow(message);
  });

  it.each(["a.csv", "a.json", "a.jsonl"])("%s in another encoding than UTF-8", async (name) => {
    await expect(importCases({ name, chunks: gbk() })).rejects.toThrow(/The file is not UTF-8.* Save it as UTF-8/);
  });
});

it("finds a column by the most telling name", () => {
  expect(findColumns(["input", "question", "output", "answer"])).toEqual({
    question: "question",
    context: "input",
    answer: "answer",
  });
  expect(findColumns(["input", "output"])).toEqual({ question: "input", answer: "output" });
});
