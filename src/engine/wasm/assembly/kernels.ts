export function twice(x: usize, y: usize, n: i32): void {
  for (let i = 0; i < n; i++) store<f32>(y + ((<usize>i) << 2), load<f32>(x + ((<usize>i) << 2)) * 2);
}
