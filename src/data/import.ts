// Files that a person drops -> questions with answers, and with chains of thought where there are some.

import { readCsv } from "../formats/csv.ts";
import { readJsonl } from "../formats/jsonl.ts";
import type { Case } from "../protocol/data.ts";

export interface Imported {
  cases: Case[];
  /** Rows that could not be used, in the order of the file. */
  errors: RowError[];
  /** Where the parts came from, e.g. { question: "prompt", answer: "completion" }; null for chat messages. */
  columns: Columns | null;
}

export interface RowError {
  /** Line of the file, from 1. */
  row: number;
  /** What is wrong and how to repair it. */
  message: string;
}

/** The column of each part. Without a chain, one may still stand in the answer between <think> and </think>. */
export interface Columns {
  question: string;
  /** Set under the question, as Alpaca's "input" is. */
  context?: string;
  chain?: string;
  answer: string;
}

export interface FileToImport {
  name: string;
  /** The bytes, piece by piece. */
  chunks: AsyncIterable<Uint8Array>;
}

/**
 * Read a .jsonl, .json, .csv or .tsv file. Columns are found by their names, unless given.
 *
 * Rows that cannot be used are listed, not dropped in silence. Throws if none can be used.
 */
export async function importCases(file: FileToImport, columns?: Columns): Promise<Imported> {
  const rows = await readRows(file);
  const first = rows.find((row): row is Readable => "value" in row);
  if (!first) {
    const [problem] = rows;
    throw new Error(
      problem && "error" in problem
        ? `${file.name} has no readable row. Line ${problem.number}: ${problem.error}`
        : `${file.name} holds no rows. Choose a file with a question and an answer on each line.`,
    );
  }
  const chat = !columns && listOfMessages(first.value) !== undefined;
  const found = chat ? null : (columns ?? findColumns(Object.keys(first.value)));
  const cases: Case[] = [];
  const errors: RowError[] = [];
  for (const row of rows) {
    try {
      if ("error" in row) throw new Error(row.error);
      cases.push(toCase(found ? fromColumns(row.value, found) : fromMessages(row.value), row.number));
    } catch (error) {
      errors.push({ row: row.number, message: (error as Error).message });
    }
  }
  if (cases.length === 0) {
    throw new Error(`No row of ${file.name} can be used. Line ${errors[0].row}: ${errors[0].message}`);
  }
  return { cases, errors, columns: found };
}

/** Columns by their usual names, whatever their case. Throws with the names it knows if one is missing. */
export function findColumns(names: string[]): Columns {
  const find = (known: string[]): string | undefined => {
    const place = known.find((name) => names.some((candidate) => plain(candidate) === name));
    return names.find((candidate) => plain(candidate) === place);
  };
  const [question, answer] = [find(NAMES.question), find(NAMES.answer)];
  if (question === undefined || answer === undefined) {
    const [part, known] = question === undefined ? ["question", NAMES.question] : ["answer", NAMES.answer];
    throw new Error(
      `No column is called like ${part === "question" ? "a question" : "an answer"}: there are ${names.join(", ")}. Rename one to "${part}" (${known.slice(1, 5).join(", ")} are known too).`,
    );
  }
  const context = find(NAMES.context);
  const chain = find(NAMES.chain);
  return {
    question,
    answer,
    ...(context === undefined || context === question ? {} : { context }),
    ...(chain === undefined ? {} : { chain }),
  };
}

interface Pair {
  question: string;
  chain: string;
  answer: string;
}

type Row = Record<string, unknown>;
type Readable = { number: number; value: Row };

// The first name that a file has is taken.
const NAMES = {
  question: ["question", "prompt", "instruction", "query", "ask", "user", "problem", "input", "问题", "提问", "指令"],
  context: ["input", "context", "background", "材料", "背景"],
  chain: [
    "chain",
    "reasoning",
    "think",
    "thinking",
    "thought",
    "rationale",
    "cot",
    "reasoning_content",
    "推理",
    "思考",
  ],
  answer: [
    "answer",
    "response",
    "output",
    "completion",
    "reply",
    "target",
    "label",
    "assistant",
    "答案",
    "回答",
    "诊断",
  ],
};

async function readRows({ name, chunks }: FileToImport): Promise<(Readable | { number: number; error: string })[]> {
  const kind = name.toLowerCase().match(/\.(jsonl|ndjson|json|csv|tsv)$/)?.[1];
  switch (kind) {
    case "csv":
    case "tsv":
      return readCsv(await readText(chunks)).rows;
    case "json":
      return readJsonList(name, await readText(chunks));
    case "jsonl":
    case "ndjson": {
      const rows: (Readable | { number: number; error: string })[] = [];
      for await (const row of readJsonl(chunks)) rows.push("error" in row ? row : asObject(row.number, row.value));
      return rows;
    }
    default:
      throw new Error(`${name} is no file of rows that can be read: .jsonl, .json, .csv and .tsv can.`);
  }
}

/** A list of objects. Rows are counted instead of lines. */
function readJsonList(name: string, text: string): (Readable | { number: number; error: string })[] {
  let list: unknown;
  try {
    list = JSON.parse(text);
  } catch (error) {
    throw new Error(`${name} is no JSON (${(error as Error).message}). If it has one object a line, call it .jsonl.`, {
      cause: error,
    });
  }
  if (!Array.isArray(list))
    throw new Error(`${name} should hold a list of objects: [{"question": …, "answer": …}, …].`);
  return list.map((value, index) => asObject(index + 1, value));
}

function asObject(number: number, value: unknown): Readable | { number: number; error: string } {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? { number, value: value as Row }
    : { number, error: 'This row is no JSON object. Write {"question": …, "answer": …}.' };
}

async function readText(chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let text = "";
  try {
    for await (const chunk of chunks) text += decoder.decode(chunk, { stream: true });
    return text + decoder.decode();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new Error("The file is not UTF-8. Save it as UTF-8 (in a spreadsheet: “CSV UTF-8”) and choose it again.", {
      cause: error,
    });
  }
}

function fromColumns(row: Row, columns: Columns): Pair {
  const question = text(row, columns.question);
  const context = columns.context === undefined ? "" : text(row, columns.context);
  const chain = columns.chain === undefined ? "" : text(row, columns.chain);
  const reply = splitThought(text(row, columns.answer));
  return {
    question: context === "" ? question : `${question}\n${context}`,
    chain: chain || reply.chain,
    answer: reply.answer,
  };
}

interface Message {
  role: string;
  content: string;
  thought: string;
}

/** OpenAI's `messages`, or ShareGPT's `conversations`. */
function listOfMessages(row: Row): unknown[] | undefined {
  const list = row.messages ?? row.conversations;
  return Array.isArray(list) ? list : undefined;
}

function readMessages(row: Row): Message[] {
  const list = listOfMessages(row);
  if (!list) throw new Error("This row has no list of messages. Write it as the other rows are.");
  return list.map((entry) => {
    const message = (typeof entry === "object" && entry !== null ? entry : {}) as Row;
    const role = text(message, "role") || text(message, "from");
    return {
      role: ROLES[role] ?? role,
      content: text(message, "content") || text(message, "value"),
      thought: text(message, "reasoning_content") || text(message, "thinking"),
    };
  });
}

const ROLES: Record<string, string> = { human: "user", gpt: "assistant" };

/** The last reply of a chat and what it replies to; a system message leads the question. */
function fromMessages(row: Row): Pair {
  const messages = readMessages(row);
  const asked = messages.filter(({ role }) => role === "user");
  const reply = messages.at(-1);
  if (reply?.role !== "assistant" || asked.length === 0) {
    throw new Error("The messages should end with the assistant's reply to a user. Add the missing message.");
  }
  if (asked.length > 1) {
    throw new Error(
      `This chat has ${asked.length} questions; one a row is read. Put each question in a row of its own.`,
    );
  }
  const leads = messages.filter(({ role }) => role === "system").map(({ content }) => content);
  const { chain, answer } = splitThought(reply.content);
  return {
    question: [...leads, asked[0].content].join("\n").trim(),
    chain: reply.thought || chain,
    answer,
  };
}

/** "<think>steps</think>answer" in its parts. */
function splitThought(reply: string): { chain: string; answer: string } {
  const match = /^\s*(?:<think>)?([^]*?)<\/think>([^]*)$/.exec(reply);
  if (match) return { chain: match[1].trim(), answer: match[2].trim() };
  if (reply.includes("<think>")) throw new Error("A <think> is never closed. Write </think> before the answer.");
  return { chain: "", answer: reply.trim() };
}

/** A cell as text, trimmed; empty if it is not there. */
function text(row: Row, column: string): string {
  const value = row[column] ?? "";
  switch (typeof value) {
    case "string":
      return value.trim();
    case "number":
    case "boolean":
      return String(value);
    default:
      throw new Error(`"${column}" holds a list or an object; a text is wanted.`);
  }
}

function toCase({ question, chain, answer }: Pair, row: number): Case {
  if (question === "") throw new Error("The question is empty. Fill it in or delete the row.");
  if (answer === "") throw new Error("The answer is empty. Fill it in or delete the row.");
  return { id: `row-${row}`, language: languageOf(question), question, chain, answer, slices: [] };
}

/** Chinese if a tenth of its letters are Chinese characters: terms in Latin letters are common in Chinese texts. */
function languageOf(question: string): "en" | "zh" {
  const chinese = question.match(/\p{Script=Han}/gu)?.length ?? 0;
  const letters = question.match(/\p{L}/gu)?.length ?? 0;
  return chinese * 10 > letters ? "zh" : "en";
}

function plain(name: string): string {
  return name
    .trim()
    .toLowerCase()
    .replace(/[\s-]+/g, "_");
}
