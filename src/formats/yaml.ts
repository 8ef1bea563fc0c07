// Values as YAML that every reader takes for the same: readers of YAML 1.1, which Python's are, see numbers, dates and
// truth values in words where readers of 1.2 see text.

export type YamlValue = string | number | boolean | null | YamlValue[] | { [key: string]: YamlValue };

/** A document, lists and records indented. Throws for numbers that are not finite. */
export function writeYaml(record: { [key: string]: YamlValue }): string {
  return `${lines(record).join("\n")}\n`;
}

function lines(value: YamlValue): string[] {
  if (isPlain(value)) return [scalar(value)];
  if (Array.isArray(value)) return value.flatMap((entry) => indented("- ", lines(entry)));
  return Object.entries(value).flatMap(([key, entry]) => {
    const inner = lines(entry);
    return isPlain(entry) ? [`${text(key)}: ${inner[0]}`] : [`${text(key)}:`, ...indented("  ", inner)];
  });
}

type Plain = string | number | boolean | null | [] | Record<string, never>;

/** Whether it stands on one line: what is empty, too. */
function isPlain(value: YamlValue): value is Plain {
  return typeof value !== "object" || value === null || Object.keys(value).length === 0;
}

/** The first line behind the lead, the others under it. */
function indented(lead: string, [first, ...rest]: string[]): string[] {
  return [lead + first, ...rest.map((line) => " ".repeat(lead.length) + line)];
}

function scalar(value: Plain): string {
  if (typeof value === "string") return text(value);
  if (typeof value === "number") return number(value);
  return JSON.stringify(value);
}

/** "1e-7" is text to Python's reader: a number has a point. */
function number(value: number): string {
  if (!Number.isFinite(value)) throw new Error(`${value} cannot be written as YAML; a finite number is wanted.`);
  const digits = String(value);
  return /^-?\d+e/.test(digits) ? digits.replace("e", ".0e") : digits;
}

/** Letters, parts of a path and words between single spaces need no quotes, unless they are what a reader takes for a value. */
function text(value: string): string {
  const plain = /^[a-z_]{2}[\w./-]*( [\w./-]+)*$/i.test(value);
  return plain && !/^(y|n|yes|no|true|false|on|off|null)$/i.test(value) ? value : quoted(value);
}

/** As JSON, whose quoted texts are YAML's; what YAML takes for the end of a line or not for a character, by its number. */
function quoted(value: string): string {
  return JSON.stringify(value).replace(
    /[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
