// @ts-check
/** A plan for RunPod in words: its steps, what they cost, and what was made of it. */

import { dollars, sizeOf } from './amounts.js'
import { adviceFor, t } from './words.js'

/** @import { Made, Note, Plan, Step } from './deploy_requests.js' */

/**
 * @param {Step} step
 * @returns {string} What it does.
 */
export function stepWords(step) {
  const values = { id: step.id ?? '', name: step.name, size: step.size ?? '', center: step.center ?? '' }
  if (step.kind === 'volume') {
    if (step.does === 'make') return t('stepMakeVolume', values)
    if (step.does === 'change') return t('stepGrowVolume', { ...values, before: step.before ?? '' })
    return t(step.does === 'remove' ? 'stepRemoveVolume' : 'stepVolumeStays', values)
  }
  if (step.kind === 'target') return t('stepForgetTarget', values)
  if (step.does === 'make') return t('stepMakeEndpoint', values)
  if (step.does === 'change') return t('stepChangeEndpoint', values)
  return t(step.does === 'remove' ? 'stepRemoveEndpoint' : 'stepEndpointStays', values)
}

/**
 * @param {Step} step
 * @param {Plan['image']} image
 * @returns {string[]} What will be set, and what it costs.
 */
export function stepFacts(step, image) {
  if (step.does === 'remove') return []
  if (step.kind === 'volume') return [monthly(step.per_month)]
  const facts = []
  if (step.gpus) facts.push(step.gpus.join(', '))
  if (step.workers) facts.push(t('factWorkers', { count: step.workers }))
  if (step.active) facts.push(t('factActive', { count: step.active }))
  if (step.idle) facts.push(t('factIdle', { count: step.idle }))
  if (step.minutes) facts.push(t('factMinutes', { count: step.minutes }))
  if (step.centers) facts.push(t('factCenters', { centers: step.centers.join(', ') }))
  else if (step.does === 'make') facts.push(t('factAnywhere'))
  if (step.image) {
    const size = image?.size ? sizeOf(image.size) : null
    facts.push(t(size ? 'factImageSize' : 'factImage', { image: step.image, size: size ?? '' }))
  }
  if (step.login) facts.push(t('factLogin', { login: step.login }))
  facts.push(hourly(step))
  if (step.active) facts.push(monthly(step.per_month))
  return facts
}

/**
 * @param {Plan} plan
 * @returns {string} What it costs whether it is used or not.
 */
export function costWords({ removes, per_month: month, steps }) {
  if (month === null) return t('planCostsUnknown')
  if (removes) return month > 0 ? t('removalCosts', { price: dollars(month) }) : ''
  if (month > 0) return t('planCosts', { price: dollars(month) })
  return steps.length > 0 ? t('planCostsNothing') : ''
}

/**
 * @param {Plan} plan
 * @returns {string[]} What its user should know before the yes.
 */
export function warnings({ image, notes, steps }) {
  const found = notes.map(noteWords)
  const login = steps.some((step) => step.login)
  if (image?.state === 'not_public' && !login) found.unshift(t('imageNotPublic', { image: image.name }))
  if (image?.state === 'unknown') found.unshift(t('imageUnknown', { image: image.name }))
  return found
}

/**
 * @param {Note} note
 * @returns {string}
 */
export function noteWords({ text, hint }) {
  return (hint && adviceFor(hint)) || text
}

/**
 * @param {Made} made
 * @returns {string} What is known to have been made.
 */
export function madeWords({ endpoint, volume }) {
  const what = [
    ...(volume ? [t('madeVolume', { id: volume })] : []),
    ...(endpoint ? [t('madeEndpoint', { id: endpoint })] : [])
  ]
  return what.length > 0 ? t('madeSoFar', { what: what.join(', ') }) : t('madeNothing')
}

/** @param {number | null} month */
function monthly(month) {
  return month === null ? t('perMonthUnknown') : t('perMonth', { price: dollars(month) })
}

/** @param {Step} step */
function hourly({ per_hour: hour, active }) {
  if (hour === null) return t('perHourUnknown')
  const most = dollars(hour.most)
  const price = hour.least === hour.most ? most : `${dollars(hour.least)} – ${most}`
  return t(active ? 'perHour' : 'perHourOnly', { price })
}
