// @ts-check
/** The question where some nodes shall run. */

import { element } from './dom.js'
import { openModal } from './modal.js'

/** @import { RemoteState } from './remote_state.js' */

const HERE = '\0here'

/**
 * @param {RemoteState} state
 * @param {string | null} current  Where they run now; null: here.
 * @returns {Promise<string | null | undefined>}  A target, '' for the switch's, null for here;
 *   undefined if nobody chose.
 */
export function askForTarget(state, current) {
  const names = state.targets.map((target) => target.name)
  if (current && !names.includes(current)) names.push(current)
  const usual = state.usual()
  /** @type {[string, string][]} */
  const choices = [
    ['', usual ? `Where the Remote switch sends to (now ${usual})` : 'Where the switch sends to'],
    ...names.map((name) => /** @type {[string, string]} */ ([name, name])),
    [HERE, 'Here']
  ]
  const chosen = current ?? HERE
  return new Promise((resolve) => {
    const form = element(
      'form',
      { method: 'dialog' },
      ...choices.map(([value, label]) =>
        element(
          'label',
          { class: 'comfy-remote-choice' },
          element('input', { type: 'radio', name: 'part', value, checked: value === chosen }),
          label
        )
      ),
      element('button', { type: 'submit', class: 'comfy-remote-button' }, 'OK')
    )
    const modal = openModal('Where shall it run?', form)
    /** @type {string | null | undefined} */
    let answer
    form.addEventListener('submit', () => {
      const value = new FormData(form).get('part')
      answer = value === HERE ? null : /** @type {string} */ (value)
    })
    modal.addEventListener('close', () => resolve(answer))
  })
}
