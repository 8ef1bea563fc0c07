// How far a piece of work is.

interface ProgressBarProps {
  label: string;
  /** 0 to 1; null while it cannot be told. */
  share: number | null;
}

export function ProgressBar({ label, share }: ProgressBarProps) {
  return share === null ? (
    <progress class="bar" aria-label={label} />
  ) : (
    <progress class="bar" aria-label={label} value={share} max={1} />
  );
}
