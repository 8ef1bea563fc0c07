import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { readCsv } from "../../src/formats/csv.ts";

const quote = (text: string): string => `"${text.replaceAll('"', '""')}"`;
const values = (text: string) => readCsv(text).rows.map((row) => ("value" in row ? row.value : row.error));

it.each([",", "\t", ";", "|"])("reads cells between %j", (separator) => {
  const text = ["name,note", "a,b", "c,d"].join("\n").replaceAll(",", separator);
  expect(readCsv(text)).toEqual({
    columns: ["name", "note"],
    rows: [
      { number: 2, value: { name: "a", note: "b" } },
      { number: 3, value: { name: "c", note: "d" } },
    ],
  });
});

it("reads any cells back that were quoted", () => {
  const cell = fc.string({ unit: fc.constantFrom("a", ",", '"', "\n", "\r\n", "，", ";", " ") });
  fc.assert(
    fc.property(fc.array(fc.tuple(cell, cell), { minLength: 1 }), (rows) => {
      const text = ["x,y", ...rows.map((row) => row.map(quote).join(","))].join("\n");
      const wanted = rows.filter((row) => row.some((each) => each.trim() !== "")).map(([x, y]) => ({ x, y }));
      expect(values(text)).toEqual(wanted);
    }),
  );
});

it("numbers rows by the line they begin on, past quoted line ends and empty lines", () => {
  const text = 'x,y\r\n"a\r\nb",1\r\n\r\nc,2\r\n';
  expect(readCsv(text).rows.map(({ number }) => number)).toEqual([2, 5]);
});

it("reads a single column, a byte order mark before it, and old line ends", () => {
  expect(values("\uFEFFtext\na b\nc")).toEqual([{ text: "a b" }, { text: "c" }]);
  expect(values("x,y\ra,b\rc,d")).toEqual([
    { x: "a", y: "b" },
    { x: "c", y: "d" },
  ]);
});

it("names the rows that do not fit the header or never close a quotation", () => {
  const { rows } = readCsv('x,y\na\nb,c\nd,e,f\ng,"h');
  expect(rows.map((row) => ("error" in row ? [row.number, row.error.slice(0, 45)] : row.number))).toEqual([
    [2, "This row has 1 cells and the header 2 columns"],
    3,
    [4, "This row has 3 cells and the header 2 columns"],
    [5, "Quoted field unterminated. Close every quoted"],
  ]);
});

describe("a header is refused", () => {
  it.each([
    ["", "The CSV file is empty."],
    ["\n \n", "The CSV file is empty."],
    ["a,,b\n1,2,3", 'Column 2 of the CSV file is called "".'],
    ["a,b,a\n1,2,3", 'Column 3 of the CSV file is called "a".'],
  ])("when the file is %j", (text, message) => {
    expect(() => readCsv(text)).toThrow(message);
  });
});
