// A teaching table of conditions and findings. It is not medical advice: the names are real, the table is coarse,
// and in every case of the study the protocol in the question decides, not this table.

export interface Finding {
  en: string;
  zh: string;
}

export interface Condition {
  en: string;
  zh: string;
  /** Findings often seen with it, by their English names. What a protocol needs is drawn from here. */
  findings: string[];
}

// One short word where the language has one: a tiny model pays for every token.
const FINDING_NAMES: [en: string, zh: string][] = [
  ["fever", "发热"],
  ["chills", "寒战"],
  ["sweat", "出汗"],
  ["fatigue", "乏力"],
  ["weakness", "无力"],
  ["soreness", "酸痛"],
  ["cough", "咳嗽"],
  ["phlegm", "咳痰"],
  ["wheeze", "喘鸣"],
  ["panting", "气短"],
  ["tightness", "胸闷"],
  ["pounding", "心慌"],
  ["sneezing", "喷嚏"],
  ["sniffles", "鼻塞"],
  ["throat pain", "咽痛"],
  ["hoarseness", "声哑"],
  ["headache", "头痛"],
  ["dizziness", "头晕"],
  ["fainting", "晕倒"],
  ["tremor", "手抖"],
  ["numbness", "麻木"],
  ["stiffness", "僵硬"],
  ["backache", "腰痛"],
  ["earache", "耳痛"],
  ["ringing", "耳鸣"],
  ["glare", "怕光"],
  ["tears", "流泪"],
  ["blurring", "眼花"],
  ["nausea", "恶心"],
  ["vomiting", "呕吐"],
  ["diarrhea", "腹泻"],
  ["cramps", "腹痛"],
  ["bloating", "腹胀"],
  ["heartburn", "烧心"],
  ["bleeding", "出血"],
  ["thirst", "口渴"],
  ["hunger", "易饿"],
  ["thinness", "消瘦"],
  ["rash", "皮疹"],
  ["itch", "瘙痒"],
  ["blisters", "水泡"],
  ["redness", "发红"],
  ["swelling", "肿胀"],
  ["dryness", "干燥"],
  ["pallor", "苍白"],
  ["jaundice", "黄疸"],
  ["burning", "尿痛"],
  ["urgency", "尿急"],
  ["insomnia", "失眠"],
];

const CONDITION_FINDINGS: [en: string, zh: string, findings: string][] = [
  ["flu", "流感", "fever, chills, cough, headache, soreness, fatigue"],
  ["cold", "感冒", "sneezing, sniffles, throat pain, cough"],
  ["asthma", "哮喘", "wheeze, cough, tightness, panting"],
  ["pneumonia", "肺炎", "fever, cough, phlegm, panting, chills"],
  ["bronchitis", "气管炎", "cough, phlegm, wheeze, tightness"],
  ["laryngitis", "喉炎", "hoarseness, throat pain, cough, dryness"],
  ["rhinitis", "鼻炎", "sniffles, headache, sneezing, tears"],
  ["tuberculosis", "结核", "cough, phlegm, thinness, sweat, fever"],
  ["measles", "麻疹", "fever, rash, cough, redness, sniffles"],
  ["chickenpox", "水痘", "blisters, itch, fever, rash"],
  ["eczema", "湿疹", "itch, rash, redness, dryness"],
  ["allergy", "过敏", "sneezing, tears, itch, rash, swelling"],
  ["pinkeye", "红眼病", "redness, tears, itch, glare"],
  ["otitis", "中耳炎", "earache, fever, ringing, dizziness"],
  ["migraine", "偏头痛", "headache, nausea, glare, vomiting"],
  ["meningitis", "脑膜炎", "fever, headache, stiffness, vomiting, glare"],
  ["stroke", "中风", "weakness, numbness, dizziness, blurring, headache"],
  ["vertigo", "眩晕", "dizziness, nausea, ringing, vomiting"],
  ["heatstroke", "中暑", "dizziness, thirst, pounding, fainting, nausea"],
  ["anemia", "贫血", "pallor, fatigue, dizziness, panting, fainting"],
  ["hypertension", "高血压", "headache, dizziness, blurring, pounding"],
  ["angina", "心绞痛", "tightness, panting, sweat, pounding"],
  ["diabetes", "糖尿病", "thirst, hunger, thinness, blurring, fatigue"],
  ["anxiety", "焦虑", "insomnia, pounding, sweat, tremor"],
  ["depression", "抑郁", "insomnia, fatigue, thinness, headache"],
  ["gastritis", "胃炎", "heartburn, nausea, bloating, cramps"],
  ["ulcer", "溃疡", "heartburn, bleeding, cramps, vomiting, pallor"],
  ["colitis", "肠炎", "diarrhea, cramps, fever, bleeding, bloating"],
  ["appendicitis", "阑尾炎", "cramps, fever, vomiting, nausea"],
  ["poisoning", "中毒", "vomiting, diarrhea, cramps, nausea, weakness"],
  ["hepatitis", "肝炎", "jaundice, fatigue, nausea, bloating, itch"],
  ["nephritis", "肾炎", "swelling, fatigue, backache, pallor"],
  ["urethritis", "尿道炎", "burning, urgency, fever, bleeding"],
  ["stones", "结石", "backache, vomiting, bleeding, burning"],
  ["gout", "痛风", "swelling, redness, soreness, stiffness"],
  ["arthritis", "关节炎", "stiffness, swelling, soreness, weakness"],
];

export const FINDINGS: Finding[] = FINDING_NAMES.map(([en, zh]) => ({ en, zh }));

export const CONDITIONS: Condition[] = CONDITION_FINDINGS.map(([en, zh, findings]) => ({
  en,
  zh,
  findings: findings.split(", "),
}));
