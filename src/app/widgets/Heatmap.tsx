// Scores of one kind of part as a grid on a canvas: the more a part matters, the stronger the colour; parts that were cut are struck out.

import { useEffect, useRef } from "preact/hooks";
import { colorOf, mix, onColorsChange } from "./colors.ts";
import { type Grid, heat } from "./grids.ts";

const ROW = 24; // CSS pixels, gap included.
const LEAST_COLUMNS = 8; // A few heads stay as narrow as experts are.
const WIDE = 10; // Cells from this width on have gaps and are struck out; narrower ones have a mark below.

export interface Cell {
  layer: number;
  part: number;
}

interface HeatmapProps {
  grid: Grid;
  label: string;
  onPoint: (cell: Cell | null) => void;
}

export function Heatmap({ grid, label, onPoint }: HeatmapProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const columns = Math.max(LEAST_COLUMNS, ...grid.scores.map((row) => row.length));

  useEffect(() => {
    const node = canvas.current as HTMLCanvasElement;
    const redraw = () => draw(node, grid, columns);
    redraw();
    const fit = new ResizeObserver(redraw);
    fit.observe(node);
    const stop = onColorsChange(redraw);
    return () => {
      fit.disconnect();
      stop();
    };
  }, [grid]);

  const cellAt = ({ offsetX, offsetY, currentTarget }: PointerEvent): Cell | null => {
    const layer = Math.floor(offsetY / ROW);
    const part = Math.floor((offsetX / (currentTarget as HTMLCanvasElement).clientWidth) * columns);
    return part < (grid.scores[layer]?.length ?? 0) ? { layer, part } : null;
  };
  return (
    <canvas
      ref={canvas}
      class="heatmap"
      height={grid.scores.length * ROW}
      role="img"
      aria-label={label}
      onPointerMove={(event) => onPoint(cellAt(event))}
      onPointerLeave={() => onPoint(null)}
    />
  );
}

function draw(canvas: HTMLCanvasElement, grid: Grid, columns: number): void {
  const [scale, width, height] = [devicePixelRatio, canvas.clientWidth, grid.scores.length * ROW];
  if (width === 0) return;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d") as CanvasRenderingContext2D;
  context.scale(scale, scale);
  const [low, high, cut] = [colorOf("heat-low"), colorOf("heat-high"), colorOf("cut")];
  const cell = width / columns;
  const gap = cell >= WIDE ? 2 : 0;
  heat(grid).forEach((row, layer) => {
    row.forEach((share, part) => {
      const [x, y] = [part * cell, layer * ROW];
      context.fillStyle = mix(low, high, share);
      // Narrow cells overlap by a hair, so that no background shines through between them.
      context.fillRect(x, y, cell - gap + (gap === 0 ? 0.5 : 0), ROW - 6);
      if (grid.kept && !grid.kept[layer][part]) strike(context, x, y, cell - gap, cut, gap > 0);
    });
  });
}

function strike(
  context: CanvasRenderingContext2D,
  x: number,
  y: number,
  width: number,
  color: string,
  wide: boolean,
): void {
  context.fillStyle = color;
  context.fillRect(x, y + ROW - 5, width, 3);
  if (!wide) return;
  context.strokeStyle = color;
  context.lineWidth = 1.5;
  context.beginPath();
  context.moveTo(x + 2, y + ROW - 8);
  context.lineTo(x + width - 2, y + 2);
  context.stroke();
}
