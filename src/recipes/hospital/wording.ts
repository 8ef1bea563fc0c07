// The words around a protocol sheet. The held-out ones appear in test cases only.

import type { Language } from "../sheet.ts";

export interface Wording {
  openings: string[];
  /** What leads in the findings present, and those denied. */
  facts: [present: string, denied: string][];
  asks: string[];
}

export const TRAINING_WORDING: Record<Language, Wording> = {
  en: {
    openings: ["Protocol:", "Clinic sheet:", "Clinic rules:", "Use this protocol:", "Protocol for today:"],
    facts: [
      ["Has:", "Denies:"],
      ["Patient has:", "Patient denies:"],
      ["Present:", "Absent:"],
      ["Findings:", "Not found:"],
      ["Reports:", "Denies:"],
      ["Signs:", "No signs of:"],
      ["Positive for:", "Negative for:"],
      ["Noted:", "Ruled out:"],
      ["Suffers from:", "Does not suffer from:"],
      ["Recorded:", "Not recorded:"],
      ["Tells of:", "Says there is no:"],
    ],
    asks: ["Diagnosis?", "Which condition?", "Which one fits?", "Name the condition."],
  },
  zh: {
    openings: ["规程：", "诊断规程：", "门诊规则：", "请按此规程：", "今日规程："],
    facts: [
      ["有：", "无："],
      ["患者有：", "患者否认："],
      ["症状：", "没有："],
      ["可见：", "未见："],
      ["主诉：", "否认："],
      ["阳性：", "阴性："],
      ["体征：", "未见体征："],
      ["记录有：", "记录无："],
      ["自述：", "自述无："],
      ["查见：", "未查见："],
      ["病史有：", "病史无："],
    ],
    asks: ["诊断？", "是哪种病？", "哪个符合？", "请写出病名。"],
  },
};

export const HELD_OUT_WORDING: Record<Language, Wording> = {
  en: {
    openings: ["Follow these rules:", "Ward card:"],
    facts: [
      ["Shows:", "Without:"],
      ["Complains of:", "Free of:"],
    ],
    asks: ["Which one remains?", "What is it?"],
  },
  zh: {
    openings: ["依照下列规则：", "病房卡片："],
    facts: [
      ["出现：", "未出现："],
      ["表现为：", "不伴有："],
    ],
    asks: ["剩下哪一个？", "这是什么病？"],
  },
};
