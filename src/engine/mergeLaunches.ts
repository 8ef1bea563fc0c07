// Recorded launches that do not wait for one another share a dispatch: small models keep a GPU busier so, and each dispatch
// less is one start and one wait less.

import { fold, type Kernel, THREADS, uniformCount } from "./launch.ts";
import { type NotedLaunch, PlannedBuffer, type Resource } from "./resources.ts";

export interface MergeLimits {
  /** Storage buffers that a launch can bind. */
  buffers: number;
  /** Fields of a launch's uniforms. */
  uniforms: number;
  /** Bytes of workgroup memory. */
  workgroupBytes: number;
  /** Workgroups along an axis of the grid. */
  workgroups: number;
}

/** A launch of more threads fills a GPU by itself, and its registers would be reserved for what is merged with it too. */
const MOST_THREADS = 1 << 16;

/** A launch goes back by so many places at most: the further, the longer its results take up memory. */
const FURTHEST = 6;

/** The same work in the same order, as far as order tells, in fewer launches. */
export function mergeLaunches(noted: NotedLaunch[], limits: MergeLimits): NotedLaunch[] {
  const groups: NotedLaunch[][] = [];
  const history = new History();
  for (const launch of noted) {
    const first = Math.max(0, history.earliest(launch), groups.length - FURTHEST);
    let own = first;
    while (own < groups.length && !fit([...groups[own], launch], limits)) own++;
    if (own === groups.length) groups.push([]);
    groups[own].push(launch);
    history.add(launch, own);
  }
  return groups.map((launches) => (launches.length === 1 ? launches[0] : merged(launches, limits)));
}

/** Where a resource lies: an intermediate result in a buffer of its own. */
interface Extent {
  buffer: object;
  from: number;
  to: number;
}

function extentOf(resource: Resource): Extent {
  const placed = resource instanceof PlannedBuffer ? resource.home : resource;
  if (placed === null) return { buffer: resource, from: 0, to: Infinity };
  if (!("buffer" in placed)) return { buffer: placed, from: 0, to: Infinity };
  return { buffer: placed.buffer, from: placed.offset, to: placed.offset + placed.size };
}

interface Access extends Extent {
  writes: boolean;
  group: number;
}

/** Which group used what. */
class History {
  readonly #accesses = new Map<object, Access[]>();

  /** The first group that the launch may be in: behind those that write what it uses, or read what it writes. */
  earliest(launch: NotedLaunch): number {
    let earliest = 0;
    for (const { buffer, from, to, writes } of accessesOf(launch)) {
      for (const other of this.#accesses.get(buffer) ?? []) {
        if ((writes || other.writes) && from < other.to && other.from < to) {
          earliest = Math.max(earliest, other.group + 1);
        }
      }
    }
    return earliest;
  }

  add(launch: NotedLaunch, group: number): void {
    for (const access of accessesOf(launch)) {
      const others = this.#accesses.get(access.buffer);
      if (others) others.push({ ...access, group });
      else this.#accesses.set(access.buffer, [{ ...access, group }]);
    }
  }
}

function accessesOf({ kernel, resources }: NotedLaunch): (Extent & { writes: boolean })[] {
  const reads = Object.keys(kernel.reads).length;
  return resources.map((resource, i) => ({ ...extentOf(resource), writes: i >= reads }));
}

function fit(launches: NotedLaunch[], limits: MergeLimits): boolean {
  const kernels = launches.map(({ kernel }) => kernel);
  const [threads, ...others] = kernels.map((kernel) => kernel.threads ?? THREADS);
  const sum = (of: (kernel: Kernel) => number): number => kernels.reduce((total, kernel) => total + of(kernel), 0);
  return (
    others.every((other) => other === threads) &&
    kernels.every(({ workgroups }) => workgroups * threads <= MOST_THREADS) &&
    boundOnce(launches).length <= limits.buffers &&
    sum(uniformCount) + kernels.length <= limits.uniforms &&
    sum(({ source }) => workgroupBytes(source, threads)) <= limits.workgroupBytes &&
    !isReadAndWritten(launches)
  );
}

/** WebGPU does not bind a buffer for reading and, anywhere in it, for writing. */
function isReadAndWritten(launches: NotedLaunch[]): boolean {
  const accesses = launches.flatMap(accessesOf);
  const written = new Set(accesses.filter(({ writes }) => writes).map(({ buffer }) => buffer));
  return accesses.some(({ writes, buffer }) => !writes && written.has(buffer));
}

const SCALAR_BYTES = 4;

/** Of the text's `var<workgroup>`, whose elements are f32, u32, vectors or matrices of them. */
function workgroupBytes(source: string, threads: number): number {
  let bytes = 0;
  for (const [, type, count] of source.matchAll(/var<workgroup>\s+\w+\s*:\s*array<\s*([\w<>]+?)\s*,\s*(\w+)\s*>/g)) {
    const width = Number(/^vec(\d)/.exec(type)?.[1] ?? 1);
    bytes += (width === 3 ? 4 : width) * SCALAR_BYTES * (count === "THREADS" ? threads : Number.parseInt(count));
  }
  return bytes;
}

interface Binding {
  resource: Resource;
  type: string;
  writes: boolean;
  /** Its name in the merged text. */
  name: string;
  tensor: Kernel["reads"][string];
  /** By which it is known to the parts that use it. */
  names: { part: number; name: string }[];
}

/** What the launches bind, the reads first; what several of them read in the same way only once. */
function boundOnce(launches: NotedLaunch[]): Binding[] {
  const found: Binding[] = [];
  launches.forEach(({ kernel, resources, types }, part) => {
    const reads = Object.keys(kernel.reads).length;
    Object.entries({ ...kernel.reads, ...kernel.writes }).forEach(([name, tensor], i) => {
      const [resource, type, writes] = [resources[i], types[i], i >= reads];
      const same = found.find((other) => !writes && other.resource === resource && other.type === type);
      if (same) same.names.push({ part, name });
      else found.push({ resource, type, writes, tensor, name: `bound${found.length}`, names: [{ part, name }] });
    });
  });
  return [...found.filter(({ writes }) => !writes), ...found.filter(({ writes }) => writes)];
}

function merged(launches: NotedLaunch[], limits: MergeLimits): NotedLaunch {
  const bindings = boundOnce(launches);
  const kernels = launches.map(({ kernel }) => kernel);
  const named = (writes: boolean) =>
    Object.fromEntries(bindings.filter((one) => one.writes === writes).map(({ name, tensor }) => [name, tensor]));
  const fields = (of: "sizes" | "numbers") =>
    kernels.flatMap((kernel, part) =>
      Object.entries(kernel[of] ?? {}).map(([name, value]): [string, number] => [fieldName(part, name), value]),
    );
  const ends: [string, number][] = [];
  let end = 0;
  kernels.forEach(({ workgroups }, part) => ends.push([`end${part}`, (end += workgroups)]));
  const kernel: Kernel = {
    name: kernels.map(({ name }) => name).join(" + "),
    source: textOf(kernels, bindings),
    reads: named(false),
    writes: named(true),
    sizes: Object.fromEntries([...fields("sizes"), ...ends]),
    numbers: Object.fromEntries(fields("numbers")),
    workgroups: end,
    threads: kernels[0].threads,
    enable: [...new Set(kernels.flatMap(({ enable }) => enable ?? []))],
  };
  return {
    kernel,
    resources: bindings.map(({ resource }) => resource),
    types: bindings.map(({ type }) => type),
    workgroups: fold(end, limits.workgroups),
    changed: [...new Set(launches.flatMap(({ changed }) => changed))],
  };
}

/** The parts' texts, each name of theirs made its own, and a main that sends each workgroup to its part. */
function textOf(kernels: Kernel[], bindings: Binding[]): string {
  const texts = kernels.map(({ source }, part) => {
    const names = new Map(declared(source).map((name) => [name, `p${part}_${name}`]));
    for (const binding of bindings) {
      for (const own of binding.names) if (own.part === part) names.set(own.name, binding.name);
    }
    return renamed(source, names, part);
  });
  const branches = kernels.map((_, part) => {
    const start = part === 0 ? "0u" : `u.end${part - 1}`;
    const run = `{ p${part}_main(group - ${start}, thread); }`;
    return part === kernels.length - 1 ? run : `if (group < u.end${part}) ${run}`;
  });
  return `${texts.join("\n")}\nfn main(group: u32, thread: u32) { ${branches.join(" else ")} }\n`;
}

/** What a text declares outside of its functions. */
function declared(source: string): string[] {
  let depth = 0;
  const names: string[] = [];
  const words = /[{}]|\b(?:fn|const|struct|var<\w+>)\s+(\w+)/g;
  for (const [word, name] of withoutComments(source).matchAll(words)) {
    if (word === "{") depth++;
    else if (word === "}") depth--;
    else if (depth === 0) names.push(name);
  }
  return names;
}

const NAMES = /struct\s+(?<struct>\w+)\s*\{[^}]*\}|(?<dot>\.\s*)?\b(?<word>[A-Za-z_]\w*)\b(?:\s*\.\s*(?<field>\w+))?/g;

/** Names are replaced by what they are given, but for what follows a dot and the fields of a struct; fields of `u` get the part's number. */
function renamed(source: string, names: Map<string, string>, part: number): string {
  return withoutComments(source).replaceAll(NAMES, (all: string, ...rest: unknown[]) => {
    const { struct, dot, word, field } = rest.at(-1) as Record<string, string | undefined>;
    if (struct) return all.replace(struct, names.get(struct)!);
    if (dot) return all;
    if (word === "u" && field) return `u.${fieldName(part, field)}`;
    return (names.get(word!) ?? word!) + all.slice(word!.length);
  });
}

function withoutComments(source: string): string {
  return source.replaceAll(/\/\/[^\n]*/g, "").replaceAll(/\/\*[\s\S]*?\*\//g, "");
}

function fieldName(part: number, name: string): string {
  return `p${part}_${name}`;
}
