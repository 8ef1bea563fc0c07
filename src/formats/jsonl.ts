// Lines of a text file, and the JSON value on each.

export interface Line {
  /** Counted from 1, empty lines too. */
  number: number;
  text: string;
}

/** A line of JSON, or the sentence that says why it is none. */
export type JsonLine = { number: number; value: unknown } | { number: number; error: string };

/** Longest line that is read, in characters: one of a whole file without line ends would fill the memory. */
const LONGEST_LINE = 10_000_000;

/**
 * The lines of a file that comes in pieces, without line ends (\n or \r\n) and without a byte order mark.
 *
 * Throws for what is not UTF-8 and for a line beyond `longest` characters.
 */
export async function* readLines(chunks: AsyncIterable<Uint8Array>, longest = LONGEST_LINE): AsyncGenerator<Line> {
  const decoder = new TextDecoder("utf-8", { fatal: true }); // Drops a byte order mark.
  let [number, rest] = [0, ""];
  const tooLong = (): Error =>
    new Error(`Line ${number + 1} has more than ${longest} characters. Is this a file with one row a line?`);
  for await (const chunk of chunks) {
    const lines = (rest + decode(decoder, number, chunk)).split("\n");
    rest = lines.pop() as string;
    for (const text of lines) {
      if (text.length > longest) throw tooLong();
      yield { number: ++number, text: text.replace(/\r$/, "") };
    }
    if (rest.length > longest) throw tooLong();
  }
  rest += decode(decoder, number);
  if (rest !== "") yield { number: ++number, text: rest.replace(/\r$/, "") };
}

/** The JSON value of each line that is not empty. A line that is no JSON is an entry like any other, with its error. */
export async function* readJsonl(chunks: AsyncIterable<Uint8Array>, longest = LONGEST_LINE): AsyncGenerator<JsonLine> {
  for await (const { number, text } of readLines(chunks, longest)) {
    if (text.trim() === "") continue;
    try {
      yield { number, value: JSON.parse(text) };
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      yield { number, error: `This line is no JSON (${reason}). Each line holds one whole JSON object.` };
    }
  }
}

/** A text of one JSON value a line. */
export function writeJsonl(values: unknown[]): string {
  return values.map((value) => `${JSON.stringify(value)}\n`).join("");
}

function decode(decoder: TextDecoder, lines: number, chunk?: Uint8Array): string {
  try {
    return decoder.decode(chunk, { stream: chunk !== undefined });
  } catch (error) {
    throw new Error(`The file is not UTF-8 near line ${lines + 1}. Save it as UTF-8 and choose it again.`, {
      cause: error,
    });
  }
}
