// A place to drop files or folders on. Whoever cannot drop finds the same as buttons in it.

import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";
import { droppedFiles, type PlacedFile } from "../chosenFiles.ts";

interface DropZoneProps {
  disabled: boolean;
  onFiles: (files: Promise<PlacedFile[]>) => void;
  children: ComponentChildren;
}

export function DropZone({ disabled, onFiles, children }: DropZoneProps) {
  const [over, setOver] = useState(false);
  /** Entering a child comes before leaving its parent. */
  const depth = useRef(0);
  const moved = (by: 1 | -1): void => {
    depth.current += by;
    setOver(depth.current > 0);
  };
  return (
    <div
      class={over && !disabled ? "drop-zone over" : "drop-zone"}
      onDragEnter={() => moved(1)}
      onDragLeave={() => moved(-1)}
      onDragOver={(event) => {
        event.preventDefault();
        event.stopPropagation();
        if (event.dataTransfer) event.dataTransfer.dropEffect = disabled ? "none" : "copy";
      }}
      onDrop={(event) => {
        event.preventDefault();
        depth.current = 0;
        setOver(false);
        if (!disabled && event.dataTransfer) onFiles(droppedFiles(event.dataTransfer.items));
      }}
    >
      {children}
    </div>
  );
}
