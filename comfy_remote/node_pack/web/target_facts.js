// @ts-check
/** What is known about a target: key, health, GPU, and what is wrong with it. */

import { element } from './dom.js'
import { RemoteError, wordsOf } from './remote_api.js'
import { t } from './words.js'

/** @import { Details, Failure, Target } from './remote_api.js' */

/** What begins like this was kept for a server by the panel itself. */
const KEPT_HERE = 'COMFY_REMOTE_KEY_'

/** @type {Record<string, keyof import('./words.js').Words>} Ours; packages add others. */
const KINDS = {
  runpod: 'kindRunpod',
  modal: 'kindModal',
  pod: 'kindPod',
  comfyui: 'kindComfyui',
  comfy: 'kindComfy',
  sandbox: 'kindSandbox',
  route: 'kindRoute'
}

/**
 * @param {Target | undefined} target  As it is configured; undefined for an address typed in.
 * @param {Details | RemoteError | null} details  null until it has answered.
 * @param {boolean} told  What is wrong is shown already.
 * @param {boolean} mayGive  A key that is missing can be given in the panel.
 * @returns {HTMLElement}
 */
export function targetFacts(target, details, told = false, mayGive = false) {
  const known = details instanceof RemoteError ? null : details
  const failure = details instanceof RemoteError ? details : (known?.error ?? null)
  /** @type {[string, string | null][]} */
  const facts = [
    [t('kind'), target ? kindWords(target) : null],
    [t('address'), target ? addressWords(target) : (known?.address ?? null)],
    [t('broughtBy'), target?.folder ?? null],
    [t('health'), failure ? t('noAnswer') : known ? healthWords(known) : details ? null : t('asking')],
    [t('gpu'), known?.device ?? null],
    [t('engine'), known?.engine ?? null],
    [t('models'), known?.known === false ? t('modelsUnknown') : null],
    [t('key'), target ? keyWords(target) : null]
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
    ...(told ? [] : notesOn(target, failure, known?.advice ?? null, mayGive))
  )
}

/**
 * One note at a time: a key that is missing explains the failure, and that explains itself.
 *
 * @param {Target | undefined} target
 * @param {Failure | null} failure
 * @param {string | null} hint
 * @param {boolean} mayGive
 * @returns {HTMLElement[]}
 */
function notesOn(target, failure, hint, mayGive) {
  const keyHint = target ? keyAdvice(target, mayGive) : null
  if (keyHint) return [note('comfy-remote-problem', keyHint)]
  if (failure) return [note('comfy-remote-problem', wordsOf(failure))]
  return hint ? [note('comfy-remote-advice', hint)] : []
}

/**
 * @param {Details} details
 * @returns {string}
 */
function healthWords({ health }) {
  if (!health) return t('answers')
  const words = []
  if (health.ready !== null) words.push(t('ready', { count: health.ready }))
  if (health.running !== null) words.push(t('running', { count: health.running }))
  if (health.queued !== null) words.push(t('queued', { count: health.queued }))
  return words.join(', ') || t('answers')
}

/**
 * @param {Target} target
 * @returns {string | null} What it is, and how it costs money.
 */
function kindWords({ type, title, billing, form }) {
  const key = form?.kind === 'gateway' ? 'kindGateway' : KINDS[type ?? '']
  const kind = key ? t(key) : title
  if (kind === null || billing === null) return kind
  return t(billing === 'by run' ? 'billedByRun' : 'billedByHour', { kind })
}

/**
 * @param {Target} target
 * @returns {string}
 */
function addressWords({ address, form }) {
  return form?.kind === 'gateway' ? `${form.address} (${form.endpoint})` : address
}

/**
 * @param {Target} target
 * @returns {string}
 */
function keyWords({ key }) {
  if (key.set) return key.variable && !key.variable.startsWith(KEPT_HERE) ? t('keyVariableSet', { variable: key.variable }) : t('keySet')
  return t(key.needed ? 'keyMissing' : 'keyNotNeeded')
}

/**
 * @param {Target} target
 * @param {boolean} mayGive
 * @returns {string | null}
 */
function keyAdvice({ key }, mayGive) {
  if (key.set || !key.needed || !key.variable) return null
  return t(mayGive ? 'giveOrSetKey' : 'setKey', { variable: key.variable })
}

/**
 * @param {string} kind
 * @param {string} text
 * @returns {HTMLElement}
 */
function note(kind, text) {
  return element('p', { class: kind }, text.trim())
}
