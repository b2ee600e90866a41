// @ts-check
/** What is spent today, at the panel's head, and the caps, which are set in a form below it. */

import { dollars } from './amounts.js'
import { button, element } from './dom.js'
import { wordsOf } from './remote_api.js'
import { getSpending, putCaps } from './spending_api.js'
import { t } from './words.js'

/** @import { RemoteState } from './remote_state.js' */
/** @import { KnownCap, OwnCaps, Spending, Today } from './spending_api.js' */

const ALL = ''
/** @type {Record<'job' | 'day' | 'month', keyof import('./words.js').Words>} */
const LABELS = { job: 'capPerJob', day: 'capPerDay', month: 'capPerMonth' }
/** @type {Record<import('./spending_api.js').Span, keyof import('./words.js').Words>} */
const SHOWN = { job: 'capOfJob', day: 'capOfDay', month: 'capOfMonth', batch: 'capOfBatch' }

/**
 * @param {RemoteState} state
 * @returns {{head: HTMLElement, caps: HTMLDetailsElement, showToday: (today: Today | undefined) => void}}
 */
export function makeSpending(state) {
  const head = element('p', { class: 'comfy-remote-today', hidden: true })
  const target = element('select', {})
  const fields = { job: amount(), day: amount(), month: amount() }
  const known = element('ul', { class: 'comfy-remote-caps' })
  const problem = element('p', { class: 'comfy-remote-problem', role: 'alert', hidden: true })
  const saved = element('p', { class: 'comfy-remote-foot', role: 'status', hidden: true })
  const save = button({ type: 'submit' }, t('saveCaps'))
  const form = element(
    'form',
    { class: 'comfy-remote-caps-form', novalidate: true, autocomplete: 'off' },
    element('label', { class: 'comfy-remote-caption' }, t('capsFor'), target),
    element(
      'div',
      { class: 'comfy-remote-cap-fields' },
      ...Object.entries(LABELS).map(([span, label]) =>
        element('label', { class: 'comfy-remote-caption' }, t(label), fields[/** @type {'job'} */ (span)])
      )
    ),
    problem,
    saved,
    element('div', { class: 'comfy-remote-answers' }, save)
  )
  const caps = element(
    'details',
    { class: 'comfy-remote-spending' },
    element('summary', {}, t('caps')),
    element('p', { class: 'comfy-remote-foot' }, t('capsHelp')),
    known,
    form
  )
  /** @type {Spending | null} */
  let spending = null

  /** @param {boolean} busy  What is typed meanwhile would be lost. */
  const work = (busy) => {
    for (const one of [save, target, ...Object.values(fields)]) one.disabled = busy
  }

  const fill = () => {
    const chosen = spending?.own.find((one) => (one.target ?? ALL) === target.value)
    for (const [span, field] of Object.entries(fields)) {
      field.value = chosen?.[/** @type {'job'} */ (span)]?.toString() ?? ''
    }
  }

  /** @param {Spending} found */
  const show = (found) => {
    spending = found
    showToday(found)
    const before = target.value
    target.replaceChildren(
      ...found.own.map((one) =>
        element('option', { value: one.target ?? ALL }, one.target ?? t('allTargets'))
      )
    )
    target.value = found.own.some((one) => (one.target ?? ALL) === before) ? before : ALL
    known.replaceChildren(...found.caps.map((cap) => element('li', { title: cap.where }, capWords(cap))))
    known.hidden = found.caps.length === 0
    form.hidden = Boolean(state.setup?.refused)
    fill()
  }

  /** @param {unknown} error */
  const fail = (error) => {
    problem.hidden = error === null
    problem.textContent = error === null ? '' : wordsOf(error)
  }

  /** @param {Today | undefined} today */
  const showToday = (today) => {
    const cap = today?.cap ?? null
    head.hidden = !today || (today.spent <= 0 && cap === null)
    if (!today) return
    const spent = dollars(today.spent)
    head.textContent = cap === null ? t('spentToday', { spent }) : t('spentOfCap', { spent, cap: dollars(cap) })
    head.classList.toggle('comfy-remote-at-cap', cap !== null && today.spent >= cap)
  }

  target.addEventListener('change', () => {
    saved.hidden = true
    fill()
  })
  caps.addEventListener('toggle', () => {
    if (!caps.open) return
    saved.hidden = true
    getSpending().then(show, fail)
  })
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    /** @type {OwnCaps} */
    const wanted = {
      target: target.value || null,
      job: valueOf(fields.job),
      day: valueOf(fields.day),
      month: valueOf(fields.month)
    }
    work(true)
    saved.hidden = true
    putCaps(wanted)
      .then((found) => {
        fail(null)
        show(found)
        saved.hidden = false
        saved.textContent = t('capsSaved', { file: found.file })
      }, fail)
      .finally(() => work(false))
  })
  return { head, caps, showToday }
}

function amount() {
  return element('input', { type: 'number', min: '0', step: 'any', placeholder: t('noCap') })
}

/** @param {HTMLInputElement} field */
function valueOf(field) {
  return field.value.trim() === '' ? null : Number(field.value)
}

/** @param {KnownCap} cap */
function capWords({ span, target, dollars: most, spent }) {
  const words = t(SHOWN[span], { cap: dollars(most) })
  const on = target === null ? words : t('withDetail', { text: target, detail: words })
  return spent === null ? on : t('capSpent', { cap: on, spent: dollars(spent) })
}
