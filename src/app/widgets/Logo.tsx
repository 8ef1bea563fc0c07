// Espalier's mark: a tree trained along three wires.

export function Logo() {
  return (
    <svg class="logo" viewBox="0 0 32 32" aria-hidden="true">
      <path class="logo-wire" d="M2 8 H30 M2 16 H30 M2 24 H30" />
      <path class="logo-tree" d="M16 31 V8 M16 26 C15 24 13 24 11 24 H5 M16 26 C17 24 19 24 21 24 H27" />
      <path class="logo-tree" d="M16 18 C15 16 13 16 11 16 H6 M16 18 C17 16 19 16 21 16 H26" />
      <path class="logo-tree" d="M16 10 C15 8 13 8 11 8 H8 M16 10 C17 8 19 8 21 8 H24" />
      <g class="logo-leaf">
        <circle cx="5" cy="24" r="2.2" />
        <circle cx="27" cy="24" r="2.2" />
        <circle cx="6" cy="16" r="2.2" />
        <circle cx="26" cy="16" r="2.2" />
        <circle cx="8" cy="8" r="2.2" />
        <circle cx="24" cy="8" r="2.2" />
        <circle cx="16" cy="5" r="2.6" />
      </g>
    </svg>
  );
}
