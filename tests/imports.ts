// What a source file imports, read from its syntax tree.

import { parseAst } from "vite";

export interface Import {
  /** As it is written, e.g. "../engine/tf.ts". */
  specifier: string;
  /** Whether only types come in, so that nothing of it is loaded. */
  typeOnly: boolean;
  /** Whether it is passed on: `export … from`. */
  reExport: boolean;
}

type Node = Record<string, unknown> & { type: string };

/** Every import of TypeScript `source`: static, dynamic, in types, passed on, and by `new URL("…", import.meta.url)`. */
export function importsOf(source: string, lang: "ts" | "tsx"): Import[] {
  const found: Import[] = [];
  visit(parseAst(source, { lang }) as unknown as Node, (node) => {
    const specifier = specifierOf(node);
    if (specifier !== null)
      found.push({ specifier, typeOnly: isTypeOnly(node), reExport: node.type.startsWith("Export") });
  });
  return found;
}

function visit(node: Node, onNode: (node: Node) => void): void {
  onNode(node);
  for (const child of Object.values(node).flat()) {
    if (typeof child === "object" && child !== null && "type" in child) visit(child as Node, onNode);
  }
}

function specifierOf(node: Node): string | null {
  switch (node.type) {
    case "ImportDeclaration":
    case "ExportNamedDeclaration":
    case "ExportAllDeclaration":
    case "ImportExpression":
    case "TSImportType":
      return text(node.source);
    case "NewExpression": {
      const [url, base] = node.arguments as Node[];
      const isUrl = (node.callee as Node).name === "URL" && base?.type === "MemberExpression";
      return isUrl && (base.object as Node).type === "MetaProperty" ? text(url) : null;
    }
    default:
      return null;
  }
}

/** The value of a string literal; null for anything else. */
function text(node: unknown): string | null {
  const value = (node as { value?: unknown } | null | undefined)?.value;
  return typeof value === "string" ? value : null;
}

function isTypeOnly(node: Node): boolean {
  if (node.type === "TSImportType" || node.importKind === "type" || node.exportKind === "type") return true;
  const names = (node.specifiers ?? []) as Node[];
  return names.length > 0 && names.every((name) => name.importKind === "type" || name.exportKind === "type");
}
