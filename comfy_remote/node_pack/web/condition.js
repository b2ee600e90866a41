// @ts-check
/** How the switch's target is, in words, and what can be done about it. */

import { button, element } from './dom.js'
import { durationOf } from './job_words.js'
import { postWarm, wordsOf } from './remote_api.js'
import { t } from './words.js'

/** @import { Details } from './remote_api.js' */
/** @import { RemoteState } from './remote_state.js' */

/**
 * @param {RemoteState} state
 * @returns {string | null} null: nothing to say.
 */
export function conditionWords({ condition, trouble, details }) {
  if (condition === 'unusable') return trouble
  if (details === null || condition === null || condition === 'ready') return null
  const last = details.last_start
  const before = last === null ? t('neverStarted') : t('lastStart', { time: durationOf(last) })
  if (condition === 'asleep') return `${t('asleep')} ${before}`
  const since = details.warm_up?.seconds ?? null
  return `${since === null ? t('waking') : t('wakingFor', { time: durationOf(since) })} ${before}`
}

/**
 * How the target is, with the buttons that help.
 *
 * @param {RemoteState} state
 * @param {{fix: (() => void) | null, fixWords: string, off: () => void, again: () => void}} ways
 *   What corrects a target that cannot be used, if the panel can; and the rest.
 * @returns {HTMLElement | null}
 */
export function makeCondition(state, ways) {
  const { condition, details, target } = state
  const words = conditionWords(state)
  const failed = details?.warm_up?.error ?? null
  if (target === null || (words === null && failed === null)) return null
  const children = []
  if (condition === 'unusable') {
    if (ways.fix) children.push(button({ onclick: ways.fix }, ways.fixWords))
    children.push(button({ onclick: ways.again }, t('askAgain')))
    children.push(button({ onclick: ways.off }, t('runHere')))
  } else if (details?.warm_up && details.warm_up.seconds === null && condition === 'asleep') {
    children.push(button({ onclick: warm(target, true, ways.again) }, t('warmUp')))
  } else if (details?.warm_up && details.warm_up.seconds !== null) {
    children.push(button({ onclick: warm(target, false, ways.again) }, t('stopWarming')))
  }
  const cost = details?.warm_up && condition === 'asleep' ? costWords(details) : null
  return element(
    'div',
    { class: `comfy-remote-condition comfy-remote-${condition}`, role: 'status' },
    words ? element('p', {}, words) : null,
    failed && condition !== 'ready' ? element('p', {}, wordsOf(failed)) : null,
    children.length > 0 ? element('div', { class: 'comfy-remote-changes' }, ...children) : null,
    cost ? element('p', { class: 'comfy-remote-foot' }, cost) : null
  )
}

/** @param {Details} details */
function costWords({ price_per_hour }) {
  if (price_per_hour === null) return t('warmCostUnknown')
  return t('warmCost', { price: (price_per_hour / 60).toPrecision(2) })
}

/**
 * @param {string} target
 * @param {boolean} on
 * @param {() => void} then
 */
function warm(target, on, then) {
  return async () => {
    await postWarm(target, on).catch(() => null) // how it stands is asked next
    then()
  }
}
