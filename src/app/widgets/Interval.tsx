// A share with its interval, drawn to scale from 0 to 1. The numbers stand beside it.

const WIDTH = 120;

interface IntervalProps {
  share: number;
  interval: [number, number];
  kind: "chain" | "direct";
}

export function Interval({ share, interval: [low, high], kind }: IntervalProps) {
  return (
    <svg class={`interval ${kind}`} viewBox={`-5 0 ${WIDTH + 10} 14`} aria-hidden="true">
      <line class="scale" x1={0} x2={WIDTH} y1={7} y2={7} />
      <line class="span" x1={low * WIDTH} x2={high * WIDTH} y1={7} y2={7} />
      <circle cx={share * WIDTH} cy={7} r={4.5} />
    </svg>
  );
}
