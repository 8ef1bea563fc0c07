// CSV with a header row -> rows with the line they begin on.

import Papa from "papaparse";

/** A row by column, or the sentence that says why it is none. */
export type CsvRow = { number: number; value: Record<string, string> } | { number: number; error: string };

export interface CsvTable {
  columns: string[];
  rows: CsvRow[];
}

/**
 * Read a whole CSV text. The separator (comma, tab, semicolon, |) is found by itself; quoted cells may hold line ends.
 *
 * `number` is the line of the file on which a row begins. Throws if there is no header row or a column has no name of
 * its own.
 */
export function readCsv(text: string): CsvTable {
  const body = text.replace(/^\uFEFF/, "");
  // One column alone has no separator to be found.
  const delimiter = /[,;\t|]/.test(body.slice(0, body.search(/\r|\n|$/))) ? "" : ",";
  const records: { cells: string[]; number: number; error: string | null }[] = [];
  const lineAt = lineCounter(body);
  let begin = 0;
  Papa.parse<string[]>(body, {
    delimiter,
    delimitersToGuess: [",", "\t", ";", "|"],
    step: ({ data, errors, meta }) => {
      // A separator that could not be guessed is no error of the row.
      const error = errors.find(({ type }) => type !== "Delimiter");
      records.push({ cells: data, number: lineAt(begin), error: error?.message ?? null });
      begin = meta.cursor;
    },
  });
  const [header, ...rest] = records.filter(({ cells }) => cells.some((cell) => cell.trim() !== ""));
  const columns = readHeader(header?.cells);
  return { columns, rows: rest.map((record) => readRow(columns, record)) };
}

function readHeader(cells: string[] | undefined): string[] {
  if (!cells) throw new Error("The CSV file is empty. Its first line should name the columns.");
  const columns = cells.map((cell) => cell.trim());
  const unusable = columns.findIndex((name, index) => name === "" || columns.indexOf(name) !== index);
  if (unusable >= 0) {
    throw new Error(
      `Column ${unusable + 1} of the CSV file is called "${columns[unusable]}". The first line should name every column, each differently.`,
    );
  }
  return columns;
}

function readRow(
  columns: string[],
  { cells, number, error }: { cells: string[]; number: number; error: string | null },
): CsvRow {
  if (error !== null) return { number, error: `${error}. Close every quoted cell with a quotation mark.` };
  if (cells.length !== columns.length) {
    return {
      number,
      error: `This row has ${cells.length} cells and the header ${columns.length} columns. Put cells with a separator or a line end in quotation marks.`,
    };
  }
  return { number, value: Object.fromEntries(columns.map((column, index) => [column, cells[index]])) };
}

/** The line of a place in the text, for places that only grow. */
function lineCounter(text: string): (place: number) => number {
  let [line, at] = [1, 0];
  return (place) => {
    for (let end = nextEnd(text, at); end >= 0 && end < place; end = nextEnd(text, at)) {
      line++;
      at = end + 1;
    }
    return line;
  };
}

/** \n and \r\n end at the \n, a lone \r ends a line of an old Macintosh file. */
function nextEnd(text: string, from: number): number {
  const feed = text.indexOf("\n", from);
  if (feed >= 0) return feed;
  return text.includes("\n") ? -1 : text.indexOf("\r", from);
}
