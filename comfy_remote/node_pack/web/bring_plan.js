// @ts-check
/** A plan of what would be brought to a target, with what its user says yes to. */

import { roundTime, sizeOf } from './amounts.js'
import { button, element } from './dom.js'
import { wordsOf } from './remote_api.js'
import { t } from './words.js'

/** @import { Plan, PlannedStep } from './bring_api.js' */

const LINE = 100_000_000 / 8 // bytes a second of 100 Mbit/s
const SENT = ['send', 'volume', 'bucket']

/** @type {Record<PlannedStep['way'], keyof import('./words.js').Words>} */
const WAYS = {
  install: 'bringInstall',
  link: 'bringLink',
  fetch: 'bringFetch',
  send: 'bringSend',
  volume: 'bringVolume',
  bucket: 'bringBucket',
  impossible: 'bringCannot'
}

/**
 * @param {Plan} plan
 * @param {(steps: number[]) => Promise<void>} begin  After the yes.
 * @param {() => void} close
 * @returns {HTMLElement}
 */
export function planForm(plan, begin, close) {
  const { target, core } = plan
  const update = core.length > 0 ? t('bringUpdate', { target, nodes: core.join(', ') }) : null
  if (plan.steps.length === 0) {
    return element('div', {}, element('p', {}, update ?? t('bringNothing', { target })), ...notes(plan))
  }
  const problem = element('p', { class: 'comfy-remote-problem', role: 'alert', hidden: true })
  const sum = element('p', { 'aria-live': 'polite' })
  const yes = button({ type: 'submit' })
  const rows = plan.steps.map((step) => row(step, target, () => show()))
  const chosen = () => rows.filter(({ box }) => box?.checked).map(({ step }) => step)
  const show = () => {
    const some = chosen()
    sum.textContent = sumWords(some, plan)
    yes.textContent = t('bringYes', { count: some.length, target })
    yes.disabled = some.length === 0
  }
  const strange = plan.steps.some(({ way, chosen }) => way === 'fetch' && !chosen)
  const possible = rows.some(({ box }) => box !== null)
  const form = element(
    'form',
    {},
    element(
      'table',
      { class: 'comfy-remote-table comfy-remote-plan' },
      element(
        'tr',
        {},
        element('th', {}, ''),
        element('th', {}, t('bringName')),
        element('th', {}, t('size')),
        element('th', {}, t('bringHow'))
      ),
      ...rows.map(({ root }) => root)
    ),
    plan.steps.some(({ way }) => way === 'install') ? element('p', { class: 'comfy-remote-advice' }, t('bringCode', { target })) : null,
    strange ? element('p', { class: 'comfy-remote-advice' }, t('bringStranger')) : null,
    update ? element('p', { class: 'comfy-remote-advice' }, update) : null,
    sum,
    ...notes(plan),
    problem,
    element(
      'div',
      { class: 'comfy-remote-answers' },
      button({ onclick: close, autofocus: true }, t(possible ? 'cancel' : 'close')),
      possible ? yes : null
    ),
    possible ? element('p', { class: 'comfy-remote-foot' }, t('bringKept', { target })) : null
  )
  form.addEventListener('submit', async (event) => {
    event.preventDefault()
    yes.disabled = true
    problem.hidden = true
    try {
      await begin(chosen().map(({ number }) => number))
    } catch (error) {
      problem.hidden = false
      problem.textContent = wordsOf(error)
      yes.disabled = false
    }
  })
  show()
  return form
}

/** @param {Plan} plan */
function notes({ notes }) {
  return notes.map((note) => element('p', { class: 'comfy-remote-foot' }, note))
}

/**
 * @param {PlannedStep} step
 * @param {string} target
 * @param {() => void} changed
 */
function row(step, target, changed) {
  const possible = step.way !== 'impossible'
  const box = possible
    ? element('input', {
        type: 'checkbox',
        'aria-label': step.name,
        checked: step.chosen,
        onchange: changed
      })
    : null
  const root = element(
    'tr',
    { 'data-name': step.name },
    element('td', {}, box),
    element('td', {}, step.name),
    element('td', {}, step.size === null ? '' : sizeOf(step.size)),
    how(step, target)
  )
  return { root, box, step }
}

/**
 * @param {PlannedStep} step
 * @param {string} target
 */
function how({ way, address, why, what_to_do, commands }, target) {
  const detail = way === 'impossible' || address === null ? [why, what_to_do].filter(Boolean).join('. ') : address
  return element(
    'td',
    {},
    element('span', {}, t(WAYS[way], { target })),
    detail ? element('small', { class: 'comfy-remote-quiet' }, detail) : null,
    commands.length > 0 ? element('pre', {}, commands.join('\n')) : null
  )
}

/**
 * @param {PlannedStep[]} chosen
 * @param {Plan} plan
 * @returns {string} How many bytes that are, and how long they may take.
 */
function sumWords(chosen, { target, speeds }) {
  const sent = total(chosen.filter(({ way }) => SENT.includes(way)))
  const fetched = total(chosen.filter(({ way }) => way === 'fetch'))
  const words = []
  if (sent > 0) {
    const time = roundTime(sent / (speeds.sent ?? LINE))
    words.push(t(speeds.sent ? 'bringSends' : 'bringSendsGuess', { size: sizeOf(sent), time }))
  }
  if (fetched > 0) {
    const time = roundTime(fetched / (speeds.fetched ?? LINE))
    words.push(t(speeds.fetched ? 'bringFetches' : 'bringFetchesUnknown', { target, size: sizeOf(fetched), time }))
  }
  return words.join(' ')
}

/** @param {PlannedStep[]} steps */
function total(steps) {
  return steps.reduce((sum, { size }) => sum + (size ?? 0), 0)
}
