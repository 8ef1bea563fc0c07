import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type JsonLine, type Line, readJsonl, readLines, writeJsonl } from "../../src/formats/jsonl.ts";

async function* cut(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function collect<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const all: Item[] = [];
  for await (const item of items) all.push(item);
  return all;
}

const lines = (text: string, size = 3, longest?: number): Promise<Line[]> =>
  collect(readLines(cut(new TextEncoder().encode(text), size), longest));
const bytes = (...all: number[]): Promise<Line[]> => collect(readLines(cut(Uint8Array.from(all), 2)));
const values = (text: string): Promise<JsonLine[]> => collect(readJsonl(cut(new TextEncoder().encode(text), 3)));

describe("lines", () => {
  it("are the same wherever the file is cut into pieces", async () => {
    const unit = fc.constantFrom("a", "，", "🙂", "\n", "\r\n", " ");
    await fc.assert(
      fc.asyncProperty(fc.string({ unit }), fc.integer({ min: 1, max: 9 }), async (text, size) => {
        const wanted = text.split(/\r?\n/).map((line, index) => ({ number: index + 1, text: line }));
        if (wanted.at(-1)?.text === "") wanted.pop(); // What follows the last line end is no line.
        expect(await lines(text, size)).toEqual(wanted);
      }),
    );
  });

  it("do not begin with a byte order mark", async () => {
    expect(await lines("\uFEFFa\nb")).toEqual([
      { number: 1, text: "a" },
      { number: 2, text: "b" },
    ]);
  });

  it("are refused past the longest, whether they end or not", async () => {
    await expect(lines("a\nbcdef\n", 3, 4)).rejects.toThrow("Line 2 has more than 4 characters.");
    await expect(lines("a\nbcdef", 100, 4)).rejects.toThrow("Line 2 has more than 4 characters.");
    expect(await lines("a\nbcde\n", 3, 4)).toHaveLength(2);
  });

  it("are refused where they are not UTF-8, at the end too", async () => {
    await expect(bytes(0x61, 0x0a, 0xff)).rejects.toThrow("The file is not UTF-8 near line 2.");
    await expect(bytes(0x61, 0xe4, 0xb8)).rejects.toThrow("The file is not UTF-8 near line 1.");
  });
});

describe("JSON lines", () => {
  it("read back what was written", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.jsonValue()), async (all) => {
        const read = await values(writeJsonl(all));
        expect(read).toEqual(JSON.parse(JSON.stringify(all.map((value, i) => ({ number: i + 1, value })))));
      }),
    );
  });

  it("skip empty lines, keep counting, and name the lines that are no JSON", async () => {
    expect(await values('{"a":1}\n\n{"a":\n2')).toEqual([
      { number: 1, value: { a: 1 } },
      { number: 3, error: expect.stringMatching(/^This line is no JSON \(/) },
      { number: 4, value: 2 },
    ]);
  });
});
