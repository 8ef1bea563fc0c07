// Tells a screen reader how things stand, at most once in five seconds: a count that changes ten times a second would
// drown everything else.

import { useEffect, useRef, useState } from "preact/hooks";

const INTERVAL_MS = 5000;

export function Announcer({ text }: { text: string }) {
  const [said, say] = useState(text);
  const lastMs = useRef(0);
  useEffect(() => {
    const wait = Math.max(0, lastMs.current + INTERVAL_MS - performance.now());
    const timer = setTimeout(() => {
      lastMs.current = performance.now();
      say(text);
    }, wait);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <p class="visually-hidden" role="status">
      {said}
    </p>
  );
}
