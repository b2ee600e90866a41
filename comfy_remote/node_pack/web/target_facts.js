// @ts-check
/** What there is to know about a target: key, health, GPU, and what is wrong with it. */

import { element } from './dom.js'
import { RemoteError } from './remote_api.js'

/** @import { Details, Target } from './remote_api.js' */

/**
 * @param {Target | undefined} target  As it is configured; undefined for an address typed in.
 * @param {Details | RemoteError | null} details  null while it is being asked.
 * @returns {HTMLElement}
 */
export function targetFacts(target, details) {
  const known = details instanceof RemoteError ? null : details
  const failure = details instanceof RemoteError ? details : (known?.error ?? null)
  /** @type {[string, string | null][]} */
  const facts = [
    ['Address', target?.address ?? known?.address ?? null],
    ['Health', failure ? 'no answer' : known ? healthWords(known) : details ? null : 'asking …'],
    ['GPU', known?.device ?? null],
    ['Engine', known?.engine ?? null],
    ['Models', known?.known === false ? 'it does not tell; the lists show those here' : null],
    ['Key', target ? keyWords(target) : null]
  ]
  return element(
    'div',
    {},
    element(
      'dl',
      { class: 'comfy-remote-facts' },
      ...facts.flatMap(([name, value]) =>
        value === null ? [] : [element('dt', {}, name), element('dd', { title: value }, value)]
      )
    ),
    ...notesOn(target, failure, known?.advice ?? null)
  )
}

/**
 * One note at a time: a key that is missing explains the failure, and that explains itself.
 *
 * @param {Target | undefined} target
 * @param {{message: string, advice?: string} | null} failure
 * @param {string | null} hint
 * @returns {HTMLElement[]}
 */
function notesOn(target, failure, hint) {
  const keyHint = target ? keyAdvice(target) : null
  if (keyHint) return [note('comfy-remote-problem', keyHint)]
  if (failure) return [note('comfy-remote-problem', `${failure.message} ${failure.advice ?? ''}`)]
  return hint ? [note('comfy-remote-advice', hint)] : []
}

/**
 * @param {Details} details
 * @returns {string}
 */
function healthWords({ health }) {
  if (!health) return 'it answers'
  const words = []
  if (health.ready !== null) words.push(`${health.ready} ready`)
  if (health.running !== null) words.push(`${health.running} running`)
  if (health.queued !== null) words.push(`${health.queued} queued`)
  return words.join(', ') || 'it answers'
}

/**
 * @param {Target} target
 * @returns {string}
 */
function keyWords({ key }) {
  if (key.set) return key.variable ? `${key.variable} is set` : 'set'
  return key.needed ? 'not set' : 'none needed'
}

/**
 * @param {Target} target
 * @returns {string | null}
 */
function keyAdvice({ key }) {
  if (key.set || !key.needed || !key.variable) return null
  return (
    `Set ${key.variable} in the environment that ComfyUI starts in, or in a file .env in its folder, ` +
    'and restart ComfyUI.'
  )
}

/**
 * @param {string} kind
 * @param {string} text
 * @returns {HTMLElement}
 */
function note(kind, text) {
  return element('p', { class: kind }, text.trim())
}
