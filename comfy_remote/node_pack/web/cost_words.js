// @ts-check
/** What a run would cost, in words: short beside Run, whole in the panel. */

import { aboutDollars, dollars, roundTime } from './amounts.js'
import { t } from './words.js'

/** @import { Estimate } from './remote_api.js' */

/** What an estimate was scaled by, as the server calls it. @type {Record<string, keyof import('./words.js').Words>} */
const SCALED = {
  steps: 'scaledSteps',
  pixels: 'scaledPixels',
  frames: 'scaledFrames',
  batch: 'scaledBatch',
  seconds: 'scaledSeconds'
}

/**
 * @param {Estimate} estimate  Of one run.
 * @param {number} runs
 * @returns {string}  `about $0.02`, `about 26 s`, `not run there yet`
 */
export function shortCost({ seconds, price }, runs) {
  if (seconds === null) return t('notRunThere')
  if (price !== null) return aboutDollars(price * runs)
  return t('about', { time: roundTime(seconds * runs) })
}

/**
 * @param {Estimate} estimate  Of one run.
 * @param {number} runs
 * @returns {string} What is known, from what, and what is not.
 */
export function costSentences(estimate, runs) {
  const { seconds, price } = estimate
  const target = estimate.member ?? estimate.target
  const said = []
  if (seconds === null) said.push(t('notRunOn', { target }))
  else said.push(t('costBy', { what: countOf(runs), cost: amountOf(estimate, runs), runs: runsLikeIt(estimate) }))
  if (estimate.member) said.push(t('routeWouldSend', { target: estimate.member }))
  const scaled = estimate.scaled.map(scaledWords).filter((words) => words !== null)
  if (scaled.length > 0) said.push(t('costScaled', { changes: scaled.join(', ') }))
  if (estimate.billing === 'by hour') said.push(t('costByHour', { target }))
  else if (estimate.billing === 'by run' && price === null && estimate.price_per_hour === null) {
    said.push(t('priceNotKnown', { target }))
  }
  return said.join(' ')
}

/**
 * @param {Estimate} estimate
 * @param {number} runs
 */
function amountOf({ seconds, price }, runs) {
  const time = roundTime((seconds ?? 0) * runs)
  return price === null ? time : t('timeAndCost', { time, cost: dollars(price * runs) })
}

/** @param {number} runs */
function countOf(runs) {
  return runs === 1 ? t('oneRun') : t('runCount', { count: runs })
}

/** @param {Estimate} estimate */
function runsLikeIt({ runs }) {
  return runs === 1 ? t('oneRunLikeIt') : t('runsLikeIt', { count: runs })
}

/**
 * @param {string} change  `steps 20 → 40`
 * @returns {string | null}
 */
function scaledWords(change) {
  const [what, ...numbers] = change.split(' ')
  const key = SCALED[what]
  return key ? t(key, { numbers: numbers.join(' ') }) : null
}
