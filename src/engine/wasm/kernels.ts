// What the compiled kernels export. All pointers are byte addresses on the shared heap; sizes are counts of elements.

export interface CpuKernels {
  twice(x: number, y: number, n: number): void;
}
