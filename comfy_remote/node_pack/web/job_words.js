// @ts-check
/** Jobs in words: what they are called, how far they are, what they took. */

import { api } from '../../scripts/api.js'
import { aboutDollars, ageOf, dollars, roundTime } from './amounts.js'
import { t } from './words.js'

/** @import { ListedJob } from './job_requests.js' */

const LOST_AFTER = 120
/** @type {Record<string, keyof import('./words.js').Words>} */
const PHASES = { starting: 'workerStarts', throttled: 'workerThrottled', loading: 'modelsLoad' }
const FAILED = ['failed', 'expired']

/**
 * @param {ListedJob} job
 * @returns {string}
 */
export function nameOf(job) {
  const name = job.name || t(job.kind === 'part' ? 'partOfGraph' : 'unnamedWorkflow')
  const own = !job.batch ? name : t('ofBatch', { job: name, batch: job.batch })
  const numbered = job.attempt > 1 ? t('attempt', { job: own, number: job.attempt }) : own
  const elsewhere = job.client_id && job.client_id !== api.clientId
  return elsewhere ? t('otherTab', { job: numbered }) : numbered
}

/**
 * @param {ListedJob} job  One that has not ended.
 * @param {number} now  By the server's clock.
 * @returns {string}
 */
export function progressOf(job, now) {
  const words = [whereOf(job), phaseOf(job)]
  words.push(durationOf(now - (job.started ?? job.created)))
  if (job.remaining !== null) {
    const left = durationOf(job.remaining)
    words.push(t(job.started === null ? 'takesAbout' : 'aboutLeft', { time: left }))
  }
  if (job.cost) words.push(aboutDollars(job.cost.dollars))
  if (!job.followed && now - job.seen > LOST_AFTER) {
    words.push(t('lastSeen', { time: durationOf(now - job.seen) }))
  }
  const line = words.join(' · ')
  return job.message ? t('withDetail', { text: line, detail: job.message }) : line
}

/**
 * @param {ListedJob} job
 * @returns {string}
 */
function phaseOf({ state, fraction, estimated, phase }) {
  const words = phase ? PHASES[phase] : undefined
  if (words) return t(words)
  if (state !== 'running' || fraction === null) return t(state === 'running' ? 'jobRunning' : 'jobQueued')
  return t(estimated ? 'estimatedPercent' : 'percent', { percent: Math.round(fraction * 100) })
}

/**
 * @param {ListedJob} job  One that has ended.
 * @returns {string}
 */
export function resultOf(job) {
  const words = [clock(job.ended ?? job.seen), whereOf(job)]
  if (job.cached) words.push(cachedWords(job.cached, (job.ended ?? job.seen)))
  if (job.state === 'cancelled') words.push(t('jobCancelled'))
  if (FAILED.includes(job.state)) words.push(t('jobFailedShort'))
  if (job.run_seconds !== null && !job.cached) words.push(durationOf(job.run_seconds))
  if (job.cost && !job.cached) {
    const cost = dollars(job.cost.dollars)
    words.push(job.cost.at_most ? t('atMost', { cost }) : cost)
  }
  return words.join(' · ')
}

/**
 * @param {ListedJob} job  One that has ended.
 * @returns {string} What was expected of one that ran to its end; empty where nothing was.
 */
export function expectedOf({ state, expected }) {
  if (state !== 'succeeded' || expected === null) return ''
  const time = roundTime(expected.seconds)
  const both = expected.dollars === null ? time : t('timeAndCost', { time, cost: dollars(expected.dollars) })
  return t('expectedBefore', { amount: both })
}

/**
 * @param {ListedJob} job
 * @returns {boolean}
 */
export function hasFailed(job) {
  return FAILED.includes(job.state)
}

/**
 * @param {number} seconds
 * @returns {string}  `42 s`, `3:07`, `1:02:09`
 */
export function durationOf(seconds) {
  const whole = Math.max(0, Math.round(seconds))
  if (whole < 60) return t('seconds', { count: whole })
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60]
  const end = `${hours ? String(minutes).padStart(2, '0') : minutes}:${String(rest).padStart(2, '0')}`
  return hours ? `${hours}:${end}` : end
}

/** @param {ListedJob} job */
function whereOf({ target, member }) {
  return member ? t('routedTo', { route: target, target: member }) : target
}

/**
 * @param {NonNullable<ListedJob['cached']>} cached
 * @param {number} now
 */
function cachedWords({ at, saved }, now) {
  const words = at === null ? t('fromCache') : t('fromBefore', { time: ageOf(Math.max(0, now - at)) })
  return saved ? t('andSaved', { words, saved: dollars(saved) }) : words
}

/** @param {number} at */
function clock(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' })
}
