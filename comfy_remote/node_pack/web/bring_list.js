// @ts-check
/** What is on its way to targets, and what became of it: in the panel, and in the dialog. */

import { roundTime, sizeOf } from './amounts.js'
import { button, element } from './dom.js'
import { wordsOf } from './remote_api.js'
import { t } from './words.js'

/** @import { Bring } from './bring.js' */
/** @import { Brought, BroughtStep } from './bring_api.js' */
/** @import { BringState } from './bring_state.js' */

const LAST_LINES = 8

/** @type {Record<Brought['state'], keyof import('./words.js').Words>} */
const TITLES = {
  running: 'bringRunning',
  ended: 'bringEnded',
  failed: 'bringFailed',
  stopped: 'bringStopped',
  interrupted: 'bringInterrupted'
}

/** @type {Record<BroughtStep['state'], keyof import('./words.js').Words>} */
const STATES = {
  waiting: 'bringWaits',
  running: 'bringMoves',
  there: 'bringThere',
  linked: 'bringLinked',
  fetched: 'bringFetched',
  sent: 'bringSent',
  installed: 'bringInstalled',
  failed: 'jobFailedShort',
  stopped: 'bringStoppedShort'
}

/**
 * @param {BringState} brings
 * @param {Bring} bring
 * @returns {{root: HTMLElement, show: () => void}}
 */
export function makeBringList(brings, bring) {
  const root = element('div', { class: 'comfy-remote-bringing' })
  /** @type {Map<string, ReturnType<typeof makeBrought>>} */
  let known = new Map()
  const show = () => {
    const shown = brings.list.map((one) => {
      const made = known.get(one.id) ?? makeBrought(brings, bring, true)
      made.show(one)
      return /** @type {const} */ ([one.id, made])
    })
    const roots = shown.map(([, made]) => made.root)
    if (roots.length !== root.children.length || roots.some((one, at) => one !== root.children[at])) {
      root.replaceChildren(...roots)
    }
    root.hidden = roots.length === 0
    known = new Map(shown)
  }
  return { root, show }
}

/**
 * @param {BringState} brings
 * @param {Bring} bring  What goes on with it.
 * @param {boolean} listed  Whether it can be removed from where it stands.
 */
export function makeBrought(brings, bring, listed) {
  /** @type {Brought | null} */
  let shown = null
  const title = element('span', { class: 'comfy-remote-name' })
  const stop = button({ class: 'comfy-remote-button comfy-remote-small', onclick: () => shown && brings.stop(shown.id) }, t('bringStop'))
  const again = button(
    {
      class: 'comfy-remote-button comfy-remote-small',
      onclick: () => shown && bring({ target: shown.target, again: shown.id })
    },
    t('bringAgain')
  )
  const forget = button(
    { class: 'comfy-remote-button comfy-remote-small', onclick: () => shown && brings.forget(shown.id) },
    t('forget')
  )
  const problem = element('p', { class: 'comfy-remote-problem', hidden: true })
  const rows = element('ul', { class: 'comfy-remote-jobs comfy-remote-scroll' })
  const root = element(
    'div',
    { class: 'comfy-remote-brought', role: 'status' },
    element('div', { class: 'comfy-remote-job' }, title, stop, again, forget),
    problem,
    rows
  )
  /** @type {(one: Brought) => void} */
  const show = (one) => {
    shown = one
    const running = one.state === 'running'
    const bad = one.steps.filter(({ state }) => state === 'failed').length
    title.textContent = t(TITLES[one.state], { target: one.target, count: one.steps.length, failed: bad })
    title.title = title.textContent
    root.setAttribute('data-state', one.state)
    stop.hidden = !running
    forget.hidden = running || !listed
    again.hidden = running || one.state === 'ended'
    problem.hidden = one.error === null
    problem.textContent = one.error === null ? '' : wordsOf(one.error)
    const folded = one.state === 'interrupted' ? [] : one.steps
    const logs = folded.map(({ error }) => lastLines(error))
    // Packs are installed together, and fail together.
    rows.replaceChildren(...folded.map((step, at) => stepRow(step, logs.indexOf(logs[at]) === at ? logs[at] : '')))
  }
  return { root, show }
}

/**
 * @param {BroughtStep['error']} error
 * @returns {string} What ComfyUI there, or an installer, printed last.
 */
function lastLines(error) {
  const log = error?.details?.log
  return typeof log === 'string' ? log.trimEnd().split('\n').slice(-LAST_LINES).join('\n') : ''
}

/**
 * @param {BroughtStep} step
 * @param {string} log
 */
function stepRow(step, log) {
  const moving = step.state === 'running'
  const part = moving && step.total ? (step.done ?? 0) / step.total : null
  return element(
    'li',
    { 'data-name': step.name, 'data-state': step.state },
    element('div', { class: 'comfy-remote-job' }, element('span', { class: 'comfy-remote-name', title: step.name }, step.name)),
    moving ? element('progress', part === null ? { max: '1' } : { max: '1', value: String(part) }) : null,
    element('span', { class: 'comfy-remote-quiet' }, stepWords(step, part)),
    moving || !step.message ? null : element('span', { class: 'comfy-remote-quiet' }, step.message),
    step.error ? element('span', { class: 'comfy-remote-problem' }, wordsOf(step.error)) : null,
    log ? element('pre', { class: 'comfy-remote-log' }, log) : null
  )
}

/**
 * @param {BroughtStep} step
 * @param {number | null} part  Of it that is there.
 */
function stepWords({ state, done, total, message, seconds, size }, part) {
  if (state !== 'running') {
    const words = t(STATES[state])
    return size === null ? words : t('withDetail', { text: sizeOf(size), detail: words })
  }
  if (part === null || total === null) return message || t('bringMoves')
  const words = t('bringDone', { done: sizeOf(done ?? 0), total: sizeOf(total) })
  if (seconds === null || part < 0.02) return words
  return `${words} · ${t('aboutLeft', { time: roundTime((seconds * (1 - part)) / part) })}`
}
