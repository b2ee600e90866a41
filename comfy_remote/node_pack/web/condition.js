// @ts-check
/** How the switch's target is, in words, and what can be done about it. */

import { dollars } from './amounts.js'
import { button, element } from './dom.js'
import { durationOf } from './job_words.js'
import { postWarm, wordsOf } from './remote_api.js'
import { t } from './words.js'

/** @import { Details } from './remote_api.js' */
/** @import { RemoteState } from './remote_state.js' */

const HOURS = [0.5, 1, 2, 4]

/**
 * @param {RemoteState} state
 * @returns {string | null} null: nothing to say.
 */
export function conditionWords({ condition, trouble, details }) {
  if (condition === 'unusable') return trouble
  const until = details?.warm_up?.until ?? null
  if (until !== null && condition === 'ready') return t('warmUntil', { time: clock(until) })
  if (details === null || condition === null || condition === 'ready') return null
  const last = details.last_start
  const before = last === null ? t('neverStarted') : t('lastStart', { time: durationOf(last) })
  if (condition === 'asleep') return `${t('asleep')} ${before}`
  if (details.health?.throttled) return `${t('throttled')} ${before}`
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
  const warmUp = details?.warm_up ?? null
  const keeps = (warmUp?.until ?? null) !== null
  const canKeep = warmUp !== null && warmUp.can_keep && !keeps && warmUp.seconds === null
  if (target === null || (words === null && failed === null && !canKeep)) return null
  const children = []
  if (condition === 'unusable') {
    if (ways.fix) children.push(button({ onclick: ways.fix }, ways.fixWords))
    children.push(button({ onclick: ways.again }, t('askAgain')))
    children.push(button({ onclick: ways.off }, t('runHere')))
  } else if (keeps || (warmUp !== null && warmUp.seconds !== null)) {
    children.push(button({ onclick: warm(target, false, ways.again) }, t('stopWarming')))
  } else if (warmUp !== null && condition === 'asleep') {
    children.push(button({ onclick: warm(target, true, ways.again) }, t('warmUp')))
  }
  const cost = keeps && details ? keepCost(details) : details?.warm_up && condition === 'asleep' ? costWords(details) : null
  return element(
    'div',
    { class: `comfy-remote-condition comfy-remote-${condition}`, role: 'status' },
    words ? element('p', {}, words) : null,
    failed && condition !== 'ready' ? element('p', {}, wordsOf(failed)) : null,
    children.length > 0 ? element('div', { class: 'comfy-remote-changes' }, ...children) : null,
    canKeep && details && condition !== 'unusable' ? makeKeep(target, details, ways.again) : null,
    cost ? element('p', { class: 'comfy-remote-foot' }, cost) : null
  )
}

/** @param {Details} details */
function costWords({ price_per_hour }) {
  if (price_per_hour === null) return t('warmCostUnknown')
  return t('warmCost', { price: (price_per_hour / 60).toPrecision(2) })
}

/**
 * The ways to keep a worker waiting, folded: it costs as long as it waits.
 *
 * @param {string} target
 * @param {Details} details
 * @param {() => void} again
 */
function makeKeep(target, details, again) {
  return element(
    'details',
    {},
    element('summary', {}, t('keepWarm')),
    element(
      'div',
      { class: 'comfy-remote-changes' },
      ...HOURS.map((hours) =>
        button(
          { 'data-hours': String(hours), onclick: warm(target, true, again, hours * 3600) },
          hours < 1 ? t('minutes', { count: hours * 60 }) : t('hours', { count: hours })
        )
      )
    ),
    element('p', { class: 'comfy-remote-foot' }, keepCost(details))
  )
}

/** @param {Details} details */
function keepCost({ price_per_hour }) {
  if (price_per_hour === null) return t('keepCostUnknown')
  return t('keepCost', { price: dollars(price_per_hour) })
}

/** @param {number} at  Seconds since the epoch. */
function clock(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' })
}

/**
 * @param {string} target
 * @param {boolean} on
 * @param {() => void} then
 * @param {number | null} seconds  For which a worker is kept; null: as long as it takes to start.
 */
function warm(target, on, then, seconds = null) {
  return async () => {
    await postWarm(target, on, seconds).catch(() => null) // how it stands is asked next
    then()
  }
}
