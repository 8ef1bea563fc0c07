// The work from left to right along a wire, one bud for each part of it.

interface TimelineProps {
  /** Of the whole. */
  label: string;
  parts: string[];
  /** Index of the part in hand; `parts.length` when all are done, -1 before the first. */
  position: number;
}

export function Timeline({ label, parts, position }: TimelineProps) {
  return (
    <ol class="timeline" aria-label={label}>
      {parts.map((part, index) => (
        <li
          key={index}
          class={index < position ? "done" : index === position ? "current" : "ahead"}
          aria-current={index === position ? "step" : undefined}
        >
          <span>{part}</span>
        </li>
      ))}
    </ol>
  );
}
