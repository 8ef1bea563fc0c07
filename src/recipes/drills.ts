// Exercises for pretraining: copy, look up, compare. A base model that has done them can follow rules in a question;
// without them a few hundred cases of a study would have to teach it that as well.
//
// Most use the words of the hospital study, which are short and few, with rules drawn at random; the others speak of
// animals, orders, weather or nothing at all. The study's cases and wordings stay unseen. Questions are short and answers
// long, as it is the answers that teach: every word of one is something to look up.

import { CONDITIONS, FINDINGS } from "./hospital/facts.ts";
import { pickWeighted, type Random, randomStream } from "./random.ts";
import {
  type Candidate,
  type CandidateSource,
  drawSheet,
  type Frame,
  isKept,
  joinList,
  type Language,
  markPresence,
  type Sheet,
  verdict,
  writeChain,
  writeList,
  writeQuestion,
  writeRule,
  writeStep,
} from "./sheet.ts";
import { COMMON_WORDS, DOMAINS, LABELS, type Word } from "./words.ts";

export type DrillKind =
  | "copy"
  | "member"
  | "mark"
  | "names"
  | "rules"
  | "verdict"
  | "step"
  | "match"
  | "matchDirect"
  | "word";

/** One question with its answer, to be written in the chat form. */
export interface Drill {
  kind: DrillKind;
  language: Language;
  question: string;
  /** Empty where the answer is asked for at once. */
  chain: string;
  answer: string;
}

interface DrillSource {
  kind: DrillKind;
  /** Its share among all drills, in parts of their sum. */
  weight: number;
  draw(random: Random, language: Language): Omit<Drill, "kind" | "language">;
}

const SOURCES: DrillSource[] = [
  { kind: "copy", weight: 8, draw: copy },
  { kind: "member", weight: 2, draw: member },
  { kind: "mark", weight: 16, draw: mark },
  { kind: "names", weight: 2, draw: names },
  { kind: "rules", weight: 10, draw: rules },
  { kind: "verdict", weight: 3, draw: kept },
  { kind: "step", weight: 14, draw: step },
  { kind: "match", weight: 36, draw: (random, language) => match(random, language, true) },
  { kind: "matchDirect", weight: 5, draw: (random, language) => match(random, language, false) },
  { kind: "word", weight: 4, draw: word },
];

/** The drill of this number. The same seed and index give the same drill. */
export function drill(seed: number, index: number): Drill {
  const random = randomStream("drill", seed, index);
  const source = pickWeighted(random, SOURCES);
  const language: Language = random.next() < 0.5 ? "en" : "zh";
  return { kind: source.kind, language, ...source.draw(random, language) };
}

// Lists: what is in them.

const LIST_WORDING = {
  en: {
    copy: ["Copy:", "Repeat:", "Say again:"],
    list: ["List:", "Items:", "Words:"],
    contains: (item: string) => `Is ${item} in the list?`,
    yes: "yes",
    no: "no",
    mark: ["Mark:", "Mark each:", "Check:"],
  },
  zh: {
    copy: ["抄写：", "重复：", "再说一遍："],
    list: ["列表：", "清单：", "词语："],
    contains: (item: string) => `其中有没有：${item}？`,
    yes: "有",
    no: "没有",
    mark: ["标出：", "逐个标出：", "核对："],
  },
};

/** Copy: fever, oak, salt -> fever, oak, salt */
function copy(random: Random, language: Language) {
  const items = someWords(random, language, 2 + random.integer(14));
  const lead = random.pick(LIST_WORDING[language].copy);
  return { question: writeList(lead, items, language), chain: "", answer: joinList(items, language) };
}

/** Is oak in the list? -> yes */
function member(random: Random, language: Language) {
  const { list, contains, yes, no } = LIST_WORDING[language];
  const [outside, ...items] = someWords(random, language, 3 + random.integer(6));
  const inside = random.next() < 0.5;
  const item = inside ? random.pick(items) : outside;
  return {
    question: `${writeList(random.pick(list), items, language)}\n${contains(item)}`,
    chain: "",
    answer: inside ? yes : no,
  };
}

/** Seen: fur, tail / Not seen: horns / Mark: tail, horns, wings -> tail+, horns-, wings- */
function mark(random: Random, language: Language) {
  const words = someWords(random, language, 4 + random.integer(8));
  const present = words.slice(0, 1 + random.integer(words.length - 2));
  const absent = words.slice(present.length);
  const denied = absent.slice(0, 1 + random.integer(3));
  const asked = random.shuffle(words).slice(0, 2 + random.integer(words.length - 1));
  const frame = drawFrame(random, language);
  return {
    question: [
      writeList(frame.present, present, language),
      writeList(frame.denied, denied, language),
      writeList(random.pick(LIST_WORDING[language].mark), asked, language),
    ].join("\n"),
    chain: "",
    answer: joinList(markPresence(asked, present), language),
  };
}

// Rules: name them, find them, apply one, apply all.

const RULE_WORDING = {
  en: {
    openings: ["Rules:", "Match:", "Guide:", "Table:", "Rules of the game:"],
    facts: [
      ["Seen:", "Not seen:"],
      ["Given:", "Missing:"],
      ["We have:", "We lack:"],
      ["Yes:", "No:"],
      ["It has:", "It lacks:"],
      ["Facts:", "Not so:"],
    ],
    asks: ["Which?", "Which one is left?", "What matches?", "Answer?"],
    names: ["Names?", "All names in order."],
    rules: ["Rules of:", "Look up:"],
    verdict: ["Which one is kept?", "Which one stays?"],
    step: (name: string) => `Keep ${name}?`,
  },
  zh: {
    openings: ["规则：", "配对：", "指南：", "表格：", "游戏规则："],
    facts: [
      ["看到：", "没看到："],
      ["已知：", "缺少："],
      ["我们有：", "我们没有："],
      ["是：", "不是："],
      ["它有：", "它没有："],
      ["事实：", "并非："],
    ],
    asks: ["哪一个？", "留下哪个？", "什么相配？", "答案？"],
    names: ["名称？", "按顺序写出名称。"],
    rules: ["查规则：", "查找："],
    verdict: ["保留哪个？", "哪个留下了？"],
    step: (name: string) => `是否保留：${name}？`,
  },
} as const;

/** Names? -> oak, pine, rose */
function names(random: Random, language: Language) {
  const sheet = drawRules(random, language, 2 + random.integer(3));
  return {
    question: `${writeRules(random, sheet, language)}\n${random.pick(RULE_WORDING[language].names)}`,
    chain: "",
    answer: joinList(
      sheet.candidates.map(({ name }) => name),
      language,
    ),
  };
}

/** Rules of: rose, oak -> their lines in this order. */
function rules(random: Random, language: Language) {
  const sheet = drawRules(random, language, 2 + random.integer(3));
  const asked = random.shuffle(sheet.candidates).slice(0, 1 + random.integer(sheet.candidates.length));
  const lead = random.pick<string>(RULE_WORDING[language].rules);
  const list = asked.map(({ name }) => name);
  return {
    question: `${writeRules(random, sheet, language)}\n${writeList(lead, list, language)}`,
    chain: "",
    answer: asked.map((candidate) => writeRule(candidate, language)).join("\n"),
  };
}

/** A finished chain -> the name of what it keeps. */
function kept(random: Random, language: Language) {
  const sheet = drawRules(random, language, 2 + random.integer(3));
  return {
    question: `${writeChain(sheet, language)}\n${random.pick(RULE_WORDING[language].verdict)}`,
    chain: "",
    answer: keptName(sheet),
  };
}

/** Keep oak? -> one line of a chain, and its verdict. */
function step(random: Random, language: Language) {
  const sheet = drawRules(random, language, 1 + random.integer(3));
  const candidate = random.pick(sheet.candidates);
  const frame = { ...drawFrame(random, language), ask: RULE_WORDING[language].step(candidate.name) };
  return {
    question: writeQuestion(sheet, frame, language),
    chain: writeStep(candidate, sheet.present, language),
    answer: verdict(isKept(candidate, sheet.present), language),
  };
}

/** The whole exercise: each candidate in turn, and the one that is left. */
function match(random: Random, language: Language, withChain: boolean) {
  const sheet = drawRules(random, language, 2 + random.integer(3));
  return {
    question: writeQuestion(sheet, drawFrame(random, language), language),
    chain: withChain ? writeChain(sheet, language) : "",
    answer: keptName(sheet),
  };
}

/** English: 尾巴 -> tail */
function word(random: Random) {
  const entry = random.pick(EVERY_WORD);
  return random.next() < 0.5
    ? { question: `English: ${entry.zh}`, chain: "", answer: entry.en }
    : { question: `中文：${entry.en}`, chain: "", answer: entry.zh };
}

// What they are made of.

const DOMAIN_WORDS: Word[] = DOMAINS.flatMap(({ names, properties }) => [...names, ...properties]);
export const STUDY_WORDS: Word[] = [...FINDINGS, ...CONDITIONS];
const EVERY_WORD: Word[] = [...DOMAIN_WORDS, ...STUDY_WORDS];
const CONSONANTS = "bdfgklmnprstvz";
const VOWELS = "aeiou";
const MOST_PROPERTIES = 14; // Of a vocabulary: few enough that candidates share some.

/** Different words of one kind or of all. */
function someWords(random: Random, language: Language, count: number): string[] {
  const kind = random.next();
  if (kind < 0.7) {
    return sampleWords(random, STUDY_WORDS, language, count);
  }
  if (kind < 0.85) {
    return random.shuffle(COMMON_WORDS[language]).slice(0, count);
  }
  return kind < 0.95 ? sampleWords(random, EVERY_WORD, language, count) : madeUpWords(random, language, count);
}

function sampleWords(random: Random, from: Word[], language: Language, count: number): string[] {
  const words = new Set<string>();
  while (words.size < count) {
    words.add(random.pick(from)[language]);
  }
  return [...words];
}

/** zuka, 山右: known by their tokens alone. */
function madeUpWords(random: Random, language: Language, count: number): string[] {
  const letter = (letters: string): string => letters[random.integer(letters.length)];
  const syllable = (): string => letter(CONSONANTS) + letter(VOWELS);
  const words = new Set<string>();
  while (words.size < count) {
    words.add(
      language === "en" ? syllable() + syllable() : random.pick(COMMON_WORDS.zh) + random.pick(COMMON_WORDS.zh),
    );
  }
  return [...words];
}

/** A sheet of `count` candidates: in one domain, of mixed words, or of made-up ones; with 1 or 2 needs. */
function drawRules(random: Random, language: Language, count: number): Sheet {
  for (;;) {
    const [names, properties] = drawVocabulary(random, language, count);
    const needs = random.next() < 0.3 ? 1 : 2;
    const shape = {
      exclusion: random.next() < 0.75,
      easyShare: random.next() * 0.6,
      denied: 3,
      unrelated: 2,
    };
    const sources = names.map((name): CandidateSource => {
      const [first, second, ...others] = random.shuffle(properties);
      return needs === 1
        ? { name, needs: [[first]], excludedBy: [second, ...others] }
        : { name, needs: [[first, second]], excludedBy: others };
    });
    // A lone candidate is kept or not, as the facts fall: drawn as one of two, and the other is left out.
    const drawn = drawSheet(random, sources, random.integer(names.length), properties, shape);
    if (drawn) {
      return count === 1 ? { ...drawn, candidates: drawn.candidates.slice(0, 1) } : drawn;
    }
  }
}

/** Mostly the study's words, short and few, in random company; then words of a domain, labels, anything, nonsense. */
function drawVocabulary(random: Random, language: Language, count: number): [names: string[], properties: string[]] {
  const nameCount = Math.max(2, count);
  const wanted = nameCount + MOST_PROPERTIES;
  const kind = random.next();
  if (kind < 0.6) {
    const names = sampleWords(random, CONDITIONS, language, nameCount);
    return [names, sampleWords(random, FINDINGS, language, MOST_PROPERTIES)];
  }
  if (kind < 0.8) {
    const words = sampleWords(random, STUDY_WORDS, language, wanted);
    return [words.slice(0, nameCount), words.slice(nameCount)];
  }
  if (kind < 0.87) {
    const { names, properties } = random.pick(DOMAINS);
    return [sampleWords(random, names, language, nameCount), properties.map((property) => property[language])];
  }
  if (kind < 0.92) {
    const labels = random.shuffle(LABELS[language]).slice(0, nameCount);
    return [labels, random.shuffle(COMMON_WORDS[language]).slice(0, MOST_PROPERTIES)];
  }
  const words = kind < 0.97 ? sampleWords(random, EVERY_WORD, language, wanted) : madeUpWords(random, language, wanted);
  return [words.slice(0, nameCount), words.slice(nameCount)];
}

function drawFrame(random: Random, language: Language): Frame {
  const wording = RULE_WORDING[language];
  const [present, denied] = random.pick<readonly [string, string]>(wording.facts);
  return { opening: random.pick<string>(wording.openings), present, denied, ask: random.pick<string>(wording.asks) };
}

function writeRules(random: Random, sheet: Sheet, language: Language): string {
  const lines = sheet.candidates.map((candidate) => writeRule(candidate, language));
  return [random.pick<string>(RULE_WORDING[language].openings), ...lines].join("\n");
}

function keptName(sheet: Sheet): string {
  const kept = sheet.candidates.find((candidate: Candidate) => isKept(candidate, sheet.present));
  if (!kept) {
    throw new Error("A sheet of several candidates keeps one of them; this one keeps none.");
  }
  return kept.name;
}
