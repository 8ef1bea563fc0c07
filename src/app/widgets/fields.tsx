// Form fields with their labels.

import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";
import { useFormats, useMessages } from "../context.ts";

interface NumberFieldProps {
  label: string;
  value: number;
  least: number;
  most: number;
  /** A whole number is wanted. */
  whole?: boolean;
  disabled?: boolean;
  onChange: (value: number) => void;
}

/** A number within bounds. What is out of bounds is marked, not taken, and put back when the field is left. */
export function NumberField({ label, value, least, most, whole = true, disabled, onChange }: NumberFieldProps) {
  const [t, format, id] = [useMessages(), useFormats(), useId()];
  const accepts = (number: number) =>
    Number.isFinite(number) && number >= least && number <= most && (!whole || Number.isInteger(number));
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        id={id}
        type="number"
        inputMode="decimal"
        value={value}
        min={least}
        max={most}
        step={whole ? 1 : "any"}
        disabled={disabled}
        aria-describedby={`${id}-hint`}
        onInput={({ currentTarget: input }) => {
          const taken = input.value.trim() !== "" && accepts(Number(input.value));
          input.setAttribute("aria-invalid", String(!taken));
          if (taken) onChange(Number(input.value));
        }}
        onBlur={({ currentTarget: input }) => {
          if (input.getAttribute("aria-invalid") === "true") input.value = String(value);
          input.setAttribute("aria-invalid", "false");
        }}
      />
      <p class="field-hint" id={`${id}-hint`}>
        {t.recipe.between(format.precise(least), most >= 1e6 ? format.whole(most) : format.precise(most))}
      </p>
    </div>
  );
}

interface TextFieldProps {
  label: string;
  value: string;
  onChange: (value: string) => void;
}

/** A short text; one that is empty is not taken, and put back when the field is left. */
export function TextField({ label, value, onChange }: TextFieldProps) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        id={id}
        type="text"
        maxLength={80}
        value={value}
        onInput={({ currentTarget: input }) => {
          if (input.value.trim() !== "") onChange(input.value);
        }}
        onBlur={({ currentTarget: input }) => {
          input.value = value;
        }}
      />
    </div>
  );
}

interface SelectFieldProps<T extends string> {
  label: string;
  /** What the choice is called where people do not look. */
  title?: string;
  value: T;
  options: { value: T; label: string; disabled?: boolean }[];
  disabled?: boolean;
  onChange: (value: T) => void;
}

export function SelectField<T extends string>({
  label,
  title,
  value,
  options,
  disabled,
  onChange,
}: SelectFieldProps<T>) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <select
        id={id}
        title={title}
        value={value}
        disabled={disabled}
        onChange={(event) => onChange(event.currentTarget.value as T)}
      >
        {options.map((option) => (
          <option key={option.value} value={option.value} disabled={option.disabled}>
            {option.label}
          </option>
        ))}
      </select>
    </div>
  );
}

interface CheckFieldProps {
  label: ComponentChildren;
  /** Said instead of the visible label where that alone would not tell. */
  name?: string;
  /** Id of what says more about it. */
  describedBy?: string;
  checked: boolean;
  disabled?: boolean;
  onChange: (checked: boolean) => void;
}

export function CheckField({ label, name, describedBy, checked, disabled, onChange }: CheckFieldProps) {
  return (
    <label class="check">
      <input
        type="checkbox"
        checked={checked}
        disabled={disabled}
        aria-label={name}
        aria-describedby={describedBy}
        onChange={(event) => onChange(event.currentTarget.checked)}
      />
      <span>{label}</span>
    </label>
  );
}

interface ChoiceProps<T extends string> {
  /** Of the whole group. */
  label: string;
  hideLabel?: boolean;
  value: T | null;
  options: { value: T; label: string; lang?: string; disabled?: boolean }[];
  disabled?: boolean;
  onChange: (value: T) => void;
}

/** A few choices side by side; none is chosen where `value` is none of them. */
export function Choice<T extends string>({ label, hideLabel, value, options, disabled, onChange }: ChoiceProps<T>) {
  const name = useId();
  return (
    <fieldset class="choice" disabled={disabled}>
      <legend class={hideLabel ? "visually-hidden" : undefined}>{label}</legend>
      <div class="choice-options">
        {options.map((option) => (
          <label key={option.value} lang={option.lang}>
            <input
              type="radio"
              name={name}
              value={option.value}
              checked={option.value === value}
              disabled={option.disabled}
              onChange={() => onChange(option.value)}
            />
            <span>{option.label}</span>
          </label>
        ))}
      </div>
    </fieldset>
  );
}
