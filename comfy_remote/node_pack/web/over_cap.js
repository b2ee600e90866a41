// @ts-check
/** What somebody sees whose run would go over a cap on spending, and may do about it. */

import { app } from '../../scripts/app.js'
import { dollars } from './amounts.js'
import { button, element, openDialog } from './dom.js'
import { showError } from './notices.js'
import { RemoteError } from './remote_api.js'
import { postOverCap } from './spending_api.js'
import { t } from './words.js'

/** @import { OverCap } from './spending_api.js' */

/** @type {Record<import('./spending_api.js').Span, keyof import('./words.js').Words>} */
const OVER = { job: 'overCapJob', day: 'overCapDay', month: 'overCapMonth', batch: 'overCapBatch' }

let asking = false

/**
 * @param {unknown} error
 * @returns {OverCap | null} null: it is about something else.
 */
export function overCapOf(error) {
  return error instanceof RemoteError ? error.cap : null
}

/**
 * A run of the open graph was refused: ask whether it may go over the cap, and run it once.
 *
 * @param {OverCap} cap
 * @param {() => void} changeCaps
 */
export async function askToRunOver(cap, changeCaps) {
  if (!(await mayGoOver(cap, changeCaps))) return
  try {
    await app.queuePrompt(0, 1)
  } catch (error) {
    showError(t('overCapTitle'), error)
  }
}

/**
 * @param {OverCap} cap
 * @param {() => void} changeCaps  Opens the form.
 * @returns {Promise<boolean>} Whether this tab's next run may go over every cap.
 */
export async function mayGoOver(cap, changeCaps) {
  if (asking) return false // each run of a queue is refused
  asking = true
  const answer = await ask(cap)
  asking = false
  if (answer === 'change') changeCaps()
  if (answer !== 'run') return false
  try {
    await postOverCap()
  } catch (error) {
    showError(t('overCapTitle'), error)
    return false
  }
  return true
}

/**
 * @param {OverCap} cap
 * @returns {string}
 */
export function overCapWords({ target, cap, span, spent, reserved }) {
  if (reserved === undefined) return t('overCapUnpriced', { target, cap: dollars(cap) })
  return t(OVER[span], {
    target,
    cap: dollars(cap),
    cost: dollars(Math.ceil(reserved * 100 - 1e-9) / 100),
    spent: dollars(spent ?? 0)
  })
}

/**
 * @param {OverCap} cap
 * @returns {Promise<string>}
 */
function ask(cap) {
  return new Promise((resolve) => {
    const known = cap.reserved !== undefined
    const form = element(
      'form',
      { method: 'dialog' },
      element('p', {}, overCapWords(cap)),
      element('p', { class: 'comfy-remote-foot' }, t(known ? 'reservedIsMost' : 'overCapSetPrice')),
      element(
        'div',
        { class: 'comfy-remote-answers' },
        button({ type: 'submit', value: 'no', autofocus: true }, t('cancel')),
        button({ type: 'submit', value: 'change' }, t('changeCaps')),
        button({ type: 'submit', value: 'run', class: 'comfy-remote-button comfy-remote-danger' }, t('runOverCap'))
      )
    )
    const dialog = openDialog(t('overCapTitle'), form)
    dialog.addEventListener('close', () => resolve(dialog.returnValue))
  })
}
