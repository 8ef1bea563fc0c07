// Python's regular expressions, as far as adapter files use them. The patterns come from files that anybody may have
// written, so they are matched by sets of positions, which no pattern can make slow the way backtracking can be.

/** Where a match may end that begins at one of `from`. */
type Matcher = (text: string, from: ReadonlySet<number>) => ReadonlySet<number>;

/** What one match may cost: positions looked at. Real patterns take some hundreds. */
const MOST_STEPS = 1_000_000;

/**
 * Whether the whole of a text matches (Python's re.fullmatch). Throws a sentence for what it cannot read: look-around,
 * references, flags, possessive quantifiers.
 */
export function pythonPattern(pattern: string): (text: string) => boolean {
  let at = 0;
  let left = MOST_STEPS;
  const spend = (steps: number) => {
    left -= steps;
    if (left < 0) throw new Error(`The pattern ${show(pattern)} takes too long to match. Name the modules instead.`);
  };
  const refuse = (what: string): never => {
    throw new Error(`The pattern ${show(pattern)} has ${what}, which is not read. Name the modules instead.`);
  };

  const alternatives = (): Matcher => {
    const branches = [sequence()];
    while (pattern[at] === "|") {
      at++;
      branches.push(sequence());
    }
    return (text, from) => new Set(branches.flatMap((branch) => [...branch(text, from)]));
  };

  const sequence = (): Matcher => {
    const items: Matcher[] = [];
    while (at < pattern.length && pattern[at] !== "|" && pattern[at] !== ")") items.push(repeated());
    return (text, from) => items.reduce((reached, item) => item(text, reached), from);
  };

  const repeated = (): Matcher => {
    const item = atom();
    const counts = /^(?:[*+?]|\{(\d*)(,?)(\d*)\})/.exec(pattern.slice(at));
    if (!counts || counts[0] === "{}" || counts[0] === "{,}") return item;
    at += counts[0].length;
    if (pattern[at] === "+") refuse('a possessive "+"');
    if (pattern[at] === "?") at++; // Lazy: of a whole match it changes nothing.
    if (/[*{]/.test(pattern[at] ?? "")) refuse("a quantifier of a quantifier");
    const [least, most] = bounds(counts);
    return (text, from) => {
      let reached = from;
      for (let i = 0; i < least && reached.size > 0; i++) {
        spend(1);
        reached = item(text, reached);
      }
      const all = new Set(reached);
      for (let i = least; i < most && reached.size > 0; i++) {
        spend(1);
        reached = new Set([...item(text, reached)].filter((position) => !all.has(position)));
        for (const position of reached) all.add(position);
      }
      return all;
    };
  };

  const atom = (): Matcher => {
    const character = pattern[at++];
    switch (character) {
      case "(":
        return group();
      case "[":
        return one(characterClass());
      case ".":
        return one((c) => c !== "\n");
      case "^":
        return (_, from) => new Set(from.has(0) ? [0] : []);
      case "$":
        return (text, from) => new Set(from.has(text.length) ? [text.length] : []);
      case "\\":
        return one(escaped());
      case "*":
      case "+":
      case "?":
        return refuse(`"${character}" with nothing to repeat`);
      default:
        return one((c) => c === character);
    }
  };

  const group = (): Matcher => {
    if (pattern.startsWith("?:", at)) at += 2;
    else if (pattern[at] === "?") refuse(`"(${pattern.slice(at, at + 2)}"`);
    const inner = alternatives();
    if (pattern[at++] !== ")") refuse('a "(" without its ")"');
    return inner;
  };

  const characterClass = (): ((c: string) => boolean) => {
    const negated = pattern[at] === "^";
    if (negated) at++;
    const parts: ((c: string) => boolean)[] = [];
    do {
      if (at >= pattern.length) refuse('a "[" without its "]"');
      const [from, plain] = member();
      const to = pattern[at] === "-" && pattern[at + 1] !== "]" && plain !== null ? (at++, member()[1]) : null;
      parts.push(plain !== null && to !== null ? (c) => c >= plain && c <= to : from);
    } while (pattern[at] !== "]");
    at++;
    return (c) => parts.some((part) => part(c)) !== negated;
  };

  /** One member of a class, and the character that it is, if it is one. */
  const member = (): [(c: string) => boolean, string | null] => {
    const character = pattern[at++];
    if (character !== "\\") return [(c) => c === character, character];
    const literal = /[^\w]/.test(pattern[at] ?? "a") ? pattern[at] : null;
    return [escaped(), literal];
  };

  const escaped = (): ((c: string) => boolean) => {
    const character = pattern[at++];
    if (character === "d") return (c) => /\d/.test(c);
    if (character === "w") return (c) => /\w/.test(c);
    if (character === undefined || /\w/.test(character)) refuse(`"\\${character ?? ""}"`);
    return (c) => c === character;
  };

  const one =
    (accepts: (c: string) => boolean): Matcher =>
    (text, from) => {
      spend(from.size);
      const reached = [...from].filter((position) => position < text.length && accepts(text[position]));
      return new Set(reached.map((position) => position + 1));
    };

  const whole = alternatives();
  if (at < pattern.length) refuse('a ")" without its "("');
  return (text) => {
    left = MOST_STEPS;
    return whole(text, new Set([0])).has(text.length);
  };
}

/** Least and most repetitions of "*", "+", "?", "{m}", "{m,}", "{,n}" and "{m,n}". */
function bounds([quantifier, least, comma, most]: RegExpExecArray): [number, number] {
  if (quantifier === "*") return [0, Number.POSITIVE_INFINITY];
  if (quantifier === "+") return [1, Number.POSITIVE_INFINITY];
  if (quantifier === "?") return [0, 1];
  if (!comma) return [Number(least), Number(least)];
  return [Number(least), most === "" ? Number.POSITIVE_INFINITY : Number(most)];
}

function show(pattern: string): string {
  return `"${pattern.length > 60 ? `${pattern.slice(0, 60)}…` : pattern}"`;
}
