// HTML as text: a template that escapes all that is put into it, and the numbers of reports in words.

/** Markup that is safe to put into a page as it is. */
export interface Markup {
  markup: string;
}

export type Content = Markup | string | number | null | Content[];

/** `html\`<p>${text}</p>\``: what is put in is escaped, unless it is markup itself; lists are joined, null is nothing. */
export function html(strings: TemplateStringsArray, ...contents: Content[]): Markup {
  return { markup: strings.map((text, i) => text + (i < contents.length ? render(contents[i]) : "")).join("") };
}

function render(content: Content): string {
  if (content === null) return "";
  if (Array.isArray(content)) return content.map(render).join("");
  return typeof content === "object" ? content.markup : escapeText(String(content));
}

function escapeText(text: string): string {
  return text
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replaceAll("'", "&#39;");
}

/** 0.4217 -> "42.2 %" */
export function percent(share: number): string {
  return `${(share * 100).toFixed(1)} %`;
}

/** Wilson's interval: [0.38, 0.47] -> "38.0–47.0 %" */
export function percentRange([low, high]: [number, number]): string {
  return `${(low * 100).toFixed(1)}–${(high * 100).toFixed(1)} %`;
}

/** The change from `before` to `after`: 100, 62 -> "−38.0 %" */
export function change(before: number, after: number): string {
  if (before === 0) return "";
  const share = after / before - 1;
  const sign = share === 0 ? "" : share < 0 ? "−" : "+";
  return `${sign}${percent(Math.abs(share))}`;
}

/** 1034240 -> "1.03 M" */
export function compact(count: number): string {
  if (count >= 999_500_000) return `${(count / 1e9).toFixed(2)} G`;
  if (count >= 999_500) return `${(count / 1e6).toFixed(2)} M`;
  return count >= 1000 ? `${(count / 1e3).toFixed(count < 99_950 ? 1 : 0)} k` : String(Math.round(count));
}

/** 123456 -> "123,456" */
export function whole(count: number): string {
  return Math.round(count).toLocaleString("en-US");
}

/** 83.4 -> "83 s", 412 -> "6 min 52 s" */
export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const rounded = Math.round(seconds);
  if (rounded < 120) return `${rounded} s`;
  const minutes = Math.floor(rounded / 60);
  return minutes < 120 ? `${minutes} min ${rounded % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** 1536 -> "1.5 kB" */
export function fileSize(bytes: number): string {
  if (bytes >= 1e6) return `${(bytes / 1e6).toFixed(1)} MB`;
  return bytes >= 1e3 ? `${(bytes / 1e3).toFixed(1)} kB` : `${bytes} B`;
}

/** 12.345 -> "12.3", 0.1234 -> "0.123": three figures. */
export function figures(value: number): string {
  if (value === 0 || !Number.isFinite(value)) return String(value);
  const magnitude = Math.abs(value);
  if (magnitude >= 1e5 || magnitude < 1e-3) return value.toExponential(1);
  return value.toFixed(magnitude >= 100 ? 0 : magnitude >= 10 ? 1 : magnitude >= 1 ? 2 : 3);
}
