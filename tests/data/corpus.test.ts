import { describe, expect, it } from "vitest";
import { readCorpus, sample, simplify } from "../../src/data/corpus.ts";

const SIMPLE = { 說: "说", 會: "会" };
const line = (row: unknown): string => `${JSON.stringify(row)}\n`;
const advice = (answer: string): string => line({ title: "T", ask: "Q", answer });

it("takes books apart and their heads off", () => {
  const text = "Title: A\nAuthor: B\nYear: 1910\n-------\nOnce.\nTwice.\n<|endoftext|>\nTitle: C\n----\nThen.\n";
  expect(readCorpus("books-en-simple", text, {})).toEqual(["Once.\nTwice.", "Then."]);
  expect(readCorpus("zh-novels", "话说\n<|endoftext|>\n却说\n", {})).toEqual(["话说", "却说"]);
});

it("writes pairs of sentences without their attribution, in simplified characters", () => {
  expect(readCorpus("tatoeba-cmn", "He can.\t他會說。\tCC-BY 2.0\n", SIMPLE)).toEqual(["He can.\n他会说。"]);
  expect(simplify("說𠮷", SIMPLE)).toBe("说𠮷");
});

it("writes dialogues turn by turn, and sums without the marks for a calculator", () => {
  const dialogue = line({ turns: [{ text: "你好" }, { text: "您好" }] });
  expect(readCorpus("crosswoz", dialogue, {})).toEqual(["你好\n您好"]);
  const sum = line({ question: "2+2?", answer: "2+2 = <<2+2=4>>4\n#### 4" });
  expect(readCorpus("gsm8k", sum, {})).toEqual(["2+2?\n2+2 = 4\n#### 4"]);
});

it("leaves out medical rows that name a way to reach somebody", () => {
  const text = advice("多喝水") + advice("加微信") + advice("打电话") + advice("QQ 联系") + advice("北京某某医院");
  expect(readCorpus("toyhom-medical-zh", text, {})).toEqual(["T\nQ\n多喝水"]);
});

describe("a sample", () => {
  const documents = [Array.from({ length: 800 }, (_, i) => `line ${i}`).join("\n")];

  it("comes from all parts of a document and has about the size asked for", () => {
    const parts = sample(documents, documents[0].length / 4);
    const size = parts.join("\n").length;
    expect(Math.abs(size / documents[0].length - 0.25)).toBeLessThan(0.02);
    const firstLines = parts.map((part) => Number(/\d+/.exec(part)?.[0]));
    expect(Math.max(...firstLines)).toBeGreaterThan(700);
    expect(Math.min(...firstLines)).toBeLessThan(100);
  });

  it("is everything where no more is there", () => {
    expect(sample(documents, 1e6).join("\n")).toBe(documents[0]);
  });
});
