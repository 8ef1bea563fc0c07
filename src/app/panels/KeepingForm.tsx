// How to keep a checkpoint that was looked at: in which of four forms, under what name, and whether there is room.

import { useId } from "preact/hooks";
import type { Actions } from "../actions.ts";
import { useFormats, useMessages } from "../context.ts";
import { shareKept, type Storage, storageNames, unfinishedOf } from "../keeping.ts";
import type { ModelChoice, ModelRecord, StoragePlan } from "../state.ts";
import { TextField } from "../widgets/fields.tsx";

interface KeepingFormProps {
  choice: ModelChoice;
  models: ModelRecord[];
  actions: Actions;
}

export function KeepingForm({ choice, models, actions }: KeepingFormProps) {
  const [t, format] = [useMessages(), useFormats()];
  const { chosen, found, plans, recommended, storage } = choice;
  const [{ budgetBytes }] = plans;
  return (
    <form
      class="keeping"
      onSubmit={(event) => {
        event.preventDefault();
        void actions.importModel();
      }}
    >
      <p role="status">{t.models.found(chosen.name, format.short(found.parameters), format.bytes(found.sizeBytes))}</p>
      {storage === null ? (
        <TooLarge choice={choice} />
      ) : (
        <>
          <TextField label={t.models.name} value={chosen.name} onChange={(name) => actions.chooseKeeping({ name })} />
          <fieldset class="keep-options">
            <legend>{t.models.keep}</legend>
            {plans.map((plan) => (
              <Option
                key={plan.storage}
                plan={plan}
                checked={plan.storage === storage}
                recommended={plan.storage === recommended}
                onChoose={(chosenStorage) => actions.chooseKeeping({ storage: chosenStorage })}
              />
            ))}
          </fieldset>
          <p class="quiet">
            {budgetBytes === null ? t.models.noBudget : t.models.budget(format.bytes(budgetBytes))}{" "}
            {t.models.tuningMeans}
          </p>
          <Room choice={choice} storage={storage} models={models} />
        </>
      )}
      <div class="buttons">
        {storage !== null && (
          <button type="submit" class="primary">
            {t.models.bring}
          </button>
        )}
        <button type="button" onClick={actions.dismissModel}>
          {storage === null ? t.close : t.models.cancel}
        </button>
      </div>
    </form>
  );
}

/** Not in any form. */
function TooLarge({ choice: { chosen, plans } }: { choice: ModelChoice }) {
  const [t, format] = [useMessages(), useFormats()];
  const smallest = plans.reduce((least, plan) => (plan.tuningBytes < least.tuningBytes ? plan : least));
  return (
    <p class="bad" role="alert">
      {t.models.tooLarge(
        chosen.name,
        storageNames[smallest.storage],
        format.bytes(smallest.tuningBytes),
        format.bytes(smallest.budgetBytes ?? 0),
      )}
    </p>
  );
}

interface OptionProps {
  plan: StoragePlan;
  checked: boolean;
  recommended: boolean;
  onChoose: (storage: Storage) => void;
}

function Option({ plan, checked, recommended, onChoose }: OptionProps) {
  const [t, format, id] = [useMessages(), useFormats(), useId()];
  const { storage, weightBytes, tuningBytes, budgetBytes, fits } = plan;
  return (
    <div class={fits ? "keep-option" : "keep-option unfit"}>
      <input
        id={id}
        type="radio"
        name="keeping"
        checked={checked}
        disabled={!fits}
        aria-describedby={`${id}-more`}
        onChange={() => onChoose(storage)}
      />
      <div>
        <label for={id}>
          <strong>{storageNames[storage]}</strong>{" "}
          {recommended && <span class="verdict right">{t.models.recommended}</span>}
        </label>
        <div id={`${id}-more`} class="quiet">
          <p>{t.models.forms[storage]}</p>
          <p>
            {t.models.takes(format.bytes(weightBytes), format.bytes(tuningBytes))}
            {budgetBytes !== null && (
              <>
                {" · "}
                <span class={fits ? "fits" : "bad"}>{fits ? t.models.fits : t.models.fitsNot}</span>
              </>
            )}
          </p>
        </div>
      </div>
    </div>
  );
}

interface RoomProps {
  choice: ModelChoice;
  storage: Storage;
  models: ModelRecord[];
}

/** Of the disk, as far as the browser tells the truth: some always say ten gigabytes, so it keeps nobody from trying. */
function Room({ choice, storage, models }: RoomProps) {
  const [t, format] = [useMessages(), useFormats()];
  const begun = unfinishedOf(choice.chosen.files, models).find((model) => model.storage === storage);
  const wantedBytes = choice.found.keptBytes[storage] - (begun?.doneBytes ?? 0);
  const wanted = format.bytes(wantedBytes);
  const free = choice.freeBytes === null ? null : format.bytes(choice.freeBytes);
  const enough = choice.freeBytes === null || wantedBytes <= choice.freeBytes;
  return (
    <p class={enough ? "quiet" : "bad"} role="status">
      {free === null
        ? t.models.roomUnknown(wanted)
        : enough
          ? t.models.room(wanted, free)
          : t.models.noRoom(wanted, free)}{" "}
      {begun && t.models.goesOn(format.percent(shareKept(begun)))}
    </p>
  );
}
