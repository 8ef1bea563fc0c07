// A table that is wider than its place scrolls in it, by keyboard too.

import type { ComponentChildren } from "preact";

export function Scroll({ children }: { children: ComponentChildren }) {
  return (
    <div class="scroll" tabIndex={0}>
      {children}
    </div>
  );
}
