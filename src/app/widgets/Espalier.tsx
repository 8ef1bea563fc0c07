// The pruned model as a trained tree: a trunk, one branch for each layer, heads as leaves to the left, experts to the right.

const ROW = 44;
const SIDE = 150; // Length of a branch.
const HALF = 170; // From the trunk to the edge.

export interface Branch {
  /** Kept or not, one by one; empty where the layer has none. */
  heads: boolean[];
  experts: boolean[];
  /** Shares kept, 0 to 1; null where the layer has none. */
  channels: number | null;
}

interface EspalierProps {
  branches: Branch[];
  label: string;
  /** Whether the branches bear their layers' numbers. */
  numbered?: boolean;
}

/** The first layer is the lowest branch, as a tree grows. */
export function Espalier({ branches, label, numbered }: EspalierProps) {
  const height = branches.length * ROW + 26;
  return (
    <svg class="espalier" viewBox={`${-HALF} 0 ${2 * HALF} ${height}`} role="img" aria-label={label}>
      {branches.map((branch, layer) => {
        const y = (branches.length - layer - 0.5) * ROW;
        return (
          <g key={layer} transform={`translate(0 ${y})`}>
            <line class="wire" x1={-HALF} x2={HALF} y1={0} y2={0} />
            {numbered && (
              <text x={-HALF} y={-5}>
                {layer}
              </text>
            )}
            <path class="branch" d={`M0 16 C -4 2 -16 0 -30 0 H ${-SIDE}`} />
            <path class="branch" d={`M0 16 C 4 2 16 0 30 0 H ${SIDE}`} />
            {leaves(branch.heads, -1)}
            {leaves(branch.experts, 1)}
            {branch.channels !== null && <ChannelBar share={branch.channels} />}
          </g>
        );
      })}
      <path class="trunk" d={`M0 ${ROW * 0.5} V ${height - 12}`} />
      <path class="soil" d={`M-40 ${height - 10} H 40`} />
    </svg>
  );
}

/** Channels are too many for leaves: the bark below the right branch is as long as the share that is kept. */
function ChannelBar({ share }: { share: number }) {
  const from = 34;
  const length = SIDE - from;
  return (
    <g>
      <rect class="bark-cut" x={from} y={9} width={length} height={4} rx={2} />
      <rect class="bark" x={from} y={9} width={length * share} height={4} rx={2} />
    </g>
  );
}

function leaves(kept: boolean[], side: -1 | 1) {
  const step = Math.min(28, (SIDE - 58) / Math.max(1, kept.length - 1)); // The last leaf ends with the branch.
  const size = Math.min(1, step / 12);
  return kept.map((keeps, index) => {
    const x = side * (44 + index * step);
    const up = index % 2 === 0 ? -1 : 1;
    // Below a branch lies its bark: leaves to the right all look up.
    const turn = side === 1 ? -60 : up * 60 * side;
    return (
      <path
        key={index}
        class={keeps ? "leaf" : "leaf-cut"}
        d="M0 0 C 4 -6 12 -6 16 0 C 12 6 4 6 0 0 Z"
        transform={`translate(${x} 0) rotate(${side === 1 ? turn : 180 + turn}) scale(${size})`}
      />
    );
  });
}
