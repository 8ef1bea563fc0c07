// A part of the page with a title.

import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

interface CardProps {
  title: string;
  lead?: ComponentChildren;
  /** To the right of the title. */
  aside?: ComponentChildren;
  class?: string;
  children: ComponentChildren;
}

export function Card({ title, lead, aside, class: name = "", children }: CardProps) {
  const id = useId();
  return (
    <section class={`card ${name}`} aria-labelledby={id}>
      <header class="card-head">
        <h2 id={id}>{title}</h2>
        {aside}
      </header>
      {lead && <p class="lead">{lead}</p>}
      {children}
    </section>
  );
}
