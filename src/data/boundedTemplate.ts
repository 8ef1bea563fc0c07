// Run a template that nobody has vouched for: whatever it says, it ends within about a second and in little memory.
//
// @huggingface/jinja evaluates every part of a template through one method, in one go. Here that method keeps an account:
// each part costs what it works on, written out. What could grow far beyond what it is given is looked at before it runs.

import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";

/** Characters of a template. The longest of known models have 30,000. */
const LONGEST_TEMPLATE = 200_000;

/** Spaces in a row in a template: the library's search for a tag takes the square of their number. */
const LONGEST_GAP = 400;

/** Parts inside one another, calls of macros included. */
const DEEPEST = 250;

/** Work a template may do, and more for every character it is given. A unit takes one to two microseconds. */
const BUDGET = { units: 500_000, perCharacter: 16 };

/** Characters that any value may have, written out, and more for every character given. */
const LARGEST = { characters: 250_000, perCharacter: 8 };

const COST = { character: 1 / 8, loopPass: 8, unknownName: 16 };

/** The characters that an element of a list or dictionary counts as, besides its own. */
const ELEMENT = 8;

type Part = NonNullable<Parameters<Interpreter["evaluate"]>[0]>;
type Value = ReturnType<Interpreter["evaluate"]>;
type Program = ReturnType<typeof parse>;

export interface Template {
  /** The names of all variables, functions and filters it mentions. */
  readonly names: ReadonlySet<string>;
  /** Throws a sentence if it refuses the values, does not end or grows too large. */
  render(values: Record<string, unknown>): string;
}

/** Throws a sentence if it is no template. */
export function openTemplate(source: string): Template {
  if (source.length > LONGEST_TEMPLATE) {
    throw new Error(
      `The chat template has ${source.length} characters; ${LONGEST_TEMPLATE} are the most. ${CHOOSE_ANOTHER}`,
    );
  }
  if (new RegExp(`\\s{${LONGEST_GAP}}`).test(source)) {
    throw new Error(`The chat template has ${LONGEST_GAP} spaces in a row or more. ${CHOOSE_ANOTHER}`);
  }
  const program = readProgram(source);
  return {
    names: namesIn(program),
    render: (values) => run(program, source, values),
  };
}

const CHOOSE_ANOTHER = "Choose the one that came with the model.";

function readProgram(source: string): Program {
  try {
    return parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
  } catch (error) {
    throw new Error(`The chat template cannot be read (${reason(error)}). ${CHOOSE_ANOTHER}`, { cause: error });
  }
}

function run(program: Program, source: string, values: Record<string, unknown>): string {
  const given = JSON.stringify(values).length;
  const largest = LARGEST.characters + LARGEST.perCharacter * given;
  const scope = new Environment();
  for (const [name, value] of Object.entries({ ...CONSTANTS, ...functions(largest), ...values }))
    scope.set(name, value);
  const interpreter = new BoundedInterpreter(scope, {
    units: BUDGET.units + BUDGET.perCharacter * given,
    largest,
    templateLength: source.length,
  });
  try {
    return interpreter.run(program).toString();
  } catch (error) {
    if (error instanceof Refused) {
      throw new Error(`The chat template refuses this conversation: ${error.message}`, { cause: error });
    }
    // The engine's own limits: of calls inside one another, of a text's length.
    if (error instanceof TooMuch || error instanceof RangeError) {
      throw new Error(
        `The chat template was stopped, as it ${error instanceof TooMuch ? error.message : "does not end"}. ${CHOOSE_ANOTHER}`,
        { cause: error },
      );
    }
    throw new Error(`The chat template cannot be used (${reason(error)}). ${CHOOSE_ANOTHER}`, { cause: error });
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message.replace(/\.$/, "") : String(error);
}

/** It has done too much. The message goes on a sentence: "was stopped, as it …". */
class TooMuch extends Error {}

/** The template's own raise_exception. */
class Refused extends Error {}

const CONSTANTS = { true: true, false: false, none: null, True: true, False: false, None: null };

/** What a template may call. The date is left out: the same conversation gives the same tokens on every day. */
function functions(largest: number): Record<string, (...given: unknown[]) => unknown> {
  return {
    raise_exception: (message) => {
      throw new Refused(String(message));
    },
    range: (...bounds) => {
      const [start, stop, step] = bounds.length === 1 ? [0, bounds[0], 1] : [bounds[0], bounds[1], bounds[2] ?? 1];
      const whole = [start, stop, step].every((bound) => Number.isSafeInteger(bound)) && step !== 0;
      if (!whole) throw new Error("range() wants one to three whole numbers");
      const length = Math.max(0, Math.ceil((Number(stop) - Number(start)) / Number(step)));
      if (length * ELEMENT > largest) throw new TooMuch(`counts to ${length}`);
      return Array.from({ length }, (_, i) => Number(start) + i * Number(step));
    },
  };
}

/** A value in the place of the part that gave it. */
class Given {
  readonly type = "Given";
  readonly value: Value;

  constructor(value: Value) {
    this.value = value;
  }
}

/** The filters whose result may have their operand's length times an argument's. */
const MULTIPLYING = new Set(["indent", "join", "replace", "tojson"]);

interface Limits {
  units: number;
  largest: number;
  templateLength: number;
}

class BoundedInterpreter extends Interpreter {
  private readonly limits: Limits;
  private left: number;
  private depth = 0;

  constructor(scope: Environment, limits: Limits) {
    super(scope);
    this.limits = limits;
    this.left = limits.units;
  }

  override evaluate(part: Part | undefined, scope: Environment): Value {
    if (!part) return super.evaluate(part, scope);
    if (part instanceof Given) return part.value;
    if (++this.depth > DEEPEST) throw new TooMuch("calls itself or nests too deeply");
    try {
      this.spend(1);
      const value = this.evaluateOne(fields(part), scope);
      if (value.type === "UndefinedValue") this.spend(COST.unknownName);
      this.spend(this.writtenLength(value) * COST.character);
      return value;
    } finally {
      this.depth--;
    }
  }

  private spend(units: number): void {
    this.left -= units;
    if (this.left < 0) throw new TooMuch("does not end");
  }

  private evaluateOne(part: Fields, scope: Environment): Value {
    switch (part.type) {
      case "For":
        return this.go(this.withItems(part, scope), scope);
      case "FilterExpression":
        return this.go(this.withOperand(part, "operand", part.operand, scope), scope);
      case "FilterStatement":
        return this.go(this.withOperand(part, "body", { type: "Program", body: part.body }, scope), scope);
      case "MemberExpression":
        return this.member(part, scope);
      case "Macro":
      case "CallStatement":
        // Each time, the library looks through all of the body.
        this.spend(this.limits.templateLength * COST.character);
        return this.go(part, scope);
      default:
        return this.go(part, scope);
    }
  }

  private go(part: Fields, scope: Environment): Value {
    return super.evaluate(part as unknown as Part, scope);
  }

  private value(part: unknown, scope: Environment): Given {
    return new Given(this.evaluate(part as Part, scope));
  }

  /** A loop with its list at hand; its passes are paid for, as a body may be empty. */
  private withItems(part: Fields, scope: Environment): Fields {
    const iterable = fields(part.iterable);
    const selects = iterable.type === "SelectExpression";
    const items = this.value(selects ? iterable.lhs : iterable, scope);
    this.spend(sizeOf(items.value) * COST.loopPass);
    return { ...part, iterable: selects ? { ...iterable, lhs: items } : items };
  }

  /** A filter with operand and arguments at hand, seen to give no more than may be. */
  private withOperand(part: Fields, place: "operand" | "body", from: unknown, scope: Environment): Fields {
    const operand = this.value(from, scope);
    const filter = fields(part.filter);
    const inPlace = { ...part, [place]: place === "body" ? [operand] : operand };
    if (filter.type !== "CallExpression" || !MULTIPLYING.has(String(fields(filter.callee).value))) return inPlace;
    const args: Fields[] = [];
    const factors: Value[] = [];
    for (const arg of filter.args as unknown[]) {
      const { type, value, argument } = fields(arg);
      const given = this.value(isKeyword(type) ? value : isSpread(type) ? argument : arg, scope);
      factors.push(given.value);
      if (isKeyword(type)) args.push({ ...fields(arg), value: given });
      else args.push(isSpread(type) ? { ...fields(arg), argument: given } : fields(given));
    }
    this.checkProduct(operand.value, factors);
    return { ...inPlace, filter: { ...filter, args } };
  }

  /** A field, an element or a method. Of all methods, replace() alone can give much more than it is given. */
  private member(part: Fields, scope: Environment): Value {
    const object = this.value(part.object, scope);
    const found = this.go({ ...part, object }, scope);
    if (!isFunction(found) || object.value.type !== "StringValue") return found;
    if (object.value.builtins.get("replace") !== found) return found;
    const Method = found.constructor as new (call: Call) => Value;
    return new Method((args, from) => {
      this.checkProduct(object.value, args);
      return found.value(args, from);
    });
  }

  private checkProduct(operand: Value, args: Value[]): void {
    const factors = args.map((arg) => (typeof arg.value === "number" ? arg.value : this.writtenLength(arg)));
    const product = this.writtenLength(operand) * Math.max(1, ...factors);
    if (product > 64 * this.limits.largest) throw new TooMuch("writes too much");
  }

  /** The characters of a value as if written out: what occurs twice in a list counts twice. Throws past the largest. */
  private writtenLength(value: Value): number {
    if (typeof value.value !== "object" || value.value === null) return this.checkLength(ownLength(value));
    let length = 0;
    const waiting: Value[] = [value];
    for (let next = waiting.pop(); next; next = waiting.pop()) {
      length = this.checkLength(length + ownLength(next) + ELEMENT * sizeOf(next));
      const inner: unknown = next.value;
      if (Array.isArray(inner)) for (const one of inner) waiting.push(one);
      else if (inner instanceof Map) for (const one of inner.values()) waiting.push(one);
    }
    return length;
  }

  private checkLength(length: number): number {
    if (length > this.limits.largest) throw new TooMuch("writes too much");
    return length;
  }
}

type Fields = Record<string, unknown> & { type: string };
type Call = (args: Value[], scope: Environment) => Value;

/** A part of a template as plain data; the library's interpreter asks for no more. */
function fields(part: unknown): Fields {
  return part as Fields;
}

function isKeyword(type: string): boolean {
  return type === "KeywordArgumentExpression";
}

function isSpread(type: string): boolean {
  return type === "SpreadExpression" || type === "KeywordSpreadExpression";
}

function isFunction(value: Value): value is Value & { value: Call } {
  return value.type === "FunctionValue";
}

/** How many elements it has. */
function sizeOf({ value }: Value): number {
  return Array.isArray(value) ? value.length : value instanceof Map ? value.size : 0;
}

function ownLength({ value }: Value): number {
  if (typeof value === "string") return value.length;
  if (!(value instanceof Map)) return 1;
  let length = 0;
  for (const key of value.keys()) length += key.length;
  return length;
}

/** Every identifier in a program. */
function namesIn(program: Program): Set<string> {
  const names = new Set<string>();
  const waiting: unknown[] = [program];
  while (waiting.length > 0) {
    const part = waiting.pop();
    if (typeof part !== "object" || part === null) continue;
    if ("type" in part && part.type === "Identifier" && "value" in part) names.add(String(part.value));
    waiting.push(...(part instanceof Map ? [...part].flat() : Object.values(part)));
  }
  return names;
}
