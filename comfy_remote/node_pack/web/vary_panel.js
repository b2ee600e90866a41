// @ts-check
/** The part of the panel in which widgets get their values, and a batch is started. */

import { dollars, roundTime } from './amounts.js'
import { button, element, icon, openDialog } from './dom.js'
import { postBatch, postPlan } from './batch_requests.js'
import { showError } from './notices.js'
import { wordsOf } from './remote_api.js'
import { hasValues, valuesOf, workflowName } from './vary.js'
import { t } from './words.js'

/** @import { Batch, Plan } from './batch_requests.js' */
/** @import { RemoteState } from './remote_state.js' */
/** @import { Varied, Varying } from './vary.js' */

const TYPING_MS = 600
const ASK_ABOVE = 200
const MOST_LINES = 6

/**
 * @param {RemoteState} state
 * @param {Varying} varying
 * @param {(batch: Batch) => void} started
 * @param {import('./bring.js').Bring} bring
 * @returns {{root: HTMLElement}}
 */
export function makeVaryPanel(state, varying, started, bring) {
  const rows = element('div', {})
  const repeat = element('input', {
    type: 'number',
    min: '1',
    max: '10000',
    'aria-label': t('repeat'),
    placeholder: '1',
    oninput: () => askSoon()
  })
  const repeated = element('label', { class: 'comfy-remote-caption' }, t('repeat'), repeat)
  const summary = element('p', { 'aria-live': 'polite' })
  const order = element('p', { class: 'comfy-remote-quiet' })
  const problems = element('div', { role: 'alert' })
  const run = button({ class: 'comfy-remote-button comfy-remote-on', onclick: () => void askToStart() })
  const clear = button({ onclick: () => varying.clear() }, t('varyNothing'))
  const none = element('p', { class: 'comfy-remote-foot' }, t('varyHelp'))
  const form = element(
    'div',
    // Of a large graph it takes a while: now, rather than while somebody types.
    { onfocusin: () => void varying.graph.prompt().catch(() => {}) },
    rows,
    repeated,
    summary,
    order,
    problems,
    element('div', { class: 'comfy-remote-changes' }, run, clear)
  )
  const root = element(
    'section',
    { class: 'comfy-remote-vary', 'aria-label': t('vary') },
    element('h3', {}, t('vary')),
    none,
    form
  )
  /** @type {Plan | null} */
  let plan = null
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let soon
  let asked = 0
  let starting = false
  let drawn = ''

  const wanted = async () => {
    const { output, workflow } = await varying.graph.prompt()
    const varied = varying.all.filter(hasValues)
    const times = Math.round(Number(repeat.value))
    return {
      prompt: output,
      workflow,
      source: workflowName(),
      target: state.target,
      vary: Object.fromEntries(varied.map((one) => [one.name, valuesOf(one)])),
      zipped: zippedOf(varied),
      repeat: times > 1 ? times : null
    }
  }

  const askNow = async () => {
    varying.drawBadges()
    const turn = ++asked
    if (!root.isConnected || !isAsked(varying.all, repeat.value)) return showPlan(null)
    try {
      const found = await postPlan(await wanted())
      if (turn === asked) showPlan(found)
    } catch (error) {
      if (turn === asked) showPlan(null, wordsOf(error))
    }
  }
  const askSoon = () => {
    clearTimeout(soon)
    run.disabled = true
    soon = setTimeout(() => void askNow(), TYPING_MS)
  }

  /**
   * @param {Plan | null} found
   * @param {string} [refused]
   */
  const showPlan = (found, refused) => {
    plan = found
    summary.textContent = found ? costOf(found) : ''
    order.textContent = found && found.axes.length > 1 ? t('varyOrder', { axes: orderOf(found, varying.all) }) : ''
    const said = refused ? [refused] : (found?.problems ?? []).map(({ message }) => message)
    problems.replaceChildren(
      ...said.map((words) => element('p', { class: 'comfy-remote-problem' }, words))
    )
    const { target } = state
    if (target !== null && found?.problems.some(({ lacks }) => lacks)) {
      const chosen = varying.all.filter(({ kind }) => kind === 'choice').map((one) => [one.name, one.chosen])
      const values = Object.fromEntries(chosen)
      problems.append(button({ onclick: () => void bring({ target, values }) }, t('bringIt', { target })))
    }
    const blocked = (found?.problems ?? []).some(({ severity }) => severity === 'error')
    run.disabled = starting || !found || found.count === 0 || blocked
    run.textContent = found ? t('startRuns', { count: found.count }) : t('startBatch')
  }

  const askToStart = async () => {
    if (!plan) return
    if (plan.count <= ASK_ABOVE) return start()
    const dialog = openDialog(
      t('vary'),
      element('p', {}, costOf(plan)),
      element(
        'div',
        { class: 'comfy-remote-answers' },
        button({ onclick: () => dialog.close() }, t('cancel')),
        button({ onclick: () => {
          dialog.close()
          void start()
        } }, t('startRuns', { count: plan.count }))
      )
    )
  }

  const start = async () => {
    starting = run.disabled = true
    try {
      varying.graph.forget()
      started(await postBatch(await wanted()))
    } catch (error) {
      showError(t('notStarted'), error)
    } finally {
      starting = false
      showPlan(plan)
    }
  }

  const show = () => {
    const varied = varying.all
    none.hidden = varied.length > 0
    form.hidden = varied.length === 0
    // Drawn again only when others vary: what is being typed stays.
    const names = varied.map(({ name }) => name).join('\n')
    if (names !== drawn) {
      drawn = names
      rows.replaceChildren(...varied.map((one) => row(one, varied, varying, askSoon)))
      askSoon()
      if (varied.length > 0) requestAnimationFrame(() => root.scrollIntoView({ block: 'nearest' }))
    }
  }
  varying.addEventListener('changed', show)
  state.addEventListener('changed', noteTarget)
  let target = state.target
  function noteTarget() {
    if (target === state.target) return
    target = state.target
    askSoon()
  }
  show()
  showPlan(null)
  const ticking = setInterval(() => {
    if (root.isConnected) return show() // another workflow may have been opened
    clearInterval(ticking)
    varying.removeEventListener('changed', show)
    state.removeEventListener('changed', noteTarget)
  }, 1000)
  return { root }
}

/**
 * @param {Varied} varied
 * @param {Varied[]} all
 * @param {Varying} varying
 * @param {() => void} changed
 */
function row(varied, all, varying, changed) {
  const label = `${varied.title} · ${varied.input}`
  const remove = button(
    {
      class: 'comfy-remote-icon',
      'aria-label': t('varyNot', { name: label }),
      title: t('varyNot', { name: label }),
      onclick: () => varying.drop(varied.name)
    },
    icon('times')
  )
  const others = all.filter((one) => one !== varied)
  const together = element(
    'select',
    {
      'aria-label': t('varyTogether'),
      onchange: () => {
        varied.together = together.value
        changed()
      }
    },
    element('option', { value: '' }, t('everyCombination')),
    ...others.map((one) =>
      element('option', { value: one.name }, t('togetherWith', { name: `${one.title} · ${one.input}` }))
    )
  )
  together.value = varied.together
  together.hidden = others.length === 0
  return element(
    'div',
    { class: 'comfy-remote-varied', 'data-name': varied.name },
    element('div', { class: 'comfy-remote-job' }, element('span', { class: 'comfy-remote-name' }, label), remove),
    field(varied, label, changed),
    together
  )
}

/**
 * @param {Varied} varied
 * @param {string} label
 * @param {() => void} changed
 */
function field(varied, label, changed) {
  if (varied.kind === 'switch') return element('p', { class: 'comfy-remote-quiet' }, t('onAndOff'))
  if (varied.kind === 'choice') {
    const list = element(
      'select',
      {
        multiple: true,
        size: String(Math.min(MOST_LINES, Math.max(2, varied.choices.length))),
        'aria-label': label,
        onchange: () => {
          varied.chosen = [...list.selectedOptions].map(({ value }) => value)
          changed()
        }
      },
      ...varied.choices.map((one) =>
        element('option', { value: one, selected: varied.chosen.includes(one) }, one)
      )
    )
    return list
  }
  if (varied.kind === 'text') {
    const lines = element('textarea', {
      rows: String(MOST_LINES / 2),
      'aria-label': label,
      placeholder: t('aTextALine'),
      oninput: () => {
        varied.typed = lines.value
        changed()
      }
    })
    lines.value = varied.typed
    return lines
  }
  const typed = element('input', {
    type: 'text',
    'aria-label': label,
    placeholder: varied.seed ? '1..8  5,7,9  random*8' : '1..8  5,7,9  0.1..0.9/0.2',
    spellcheck: 'false',
    oninput: () => {
      varied.typed = typed.value
      changed()
    }
  })
  typed.value = varied.typed
  return typed
}

/**
 * @param {Varied[]} varied
 * @returns {string[]} `"3.seed,6.text"`: what varies together, each group once.
 */
function zippedOf(varied) {
  /** @type {string[][]} */
  const groups = []
  for (const { name, together } of varied) {
    if (!together || !varied.some((one) => one.name === together)) continue
    const known = groups.filter((group) => group.includes(name) || group.includes(together))
    const joined = new Set([...known.flat(), together, name])
    for (const group of known) groups.splice(groups.indexOf(group), 1)
    groups.push([...joined])
  }
  return groups.map((group) => group.join())
}

/**
 * @param {Varied[]} varied
 * @param {string} repeat
 */
function isAsked(varied, repeat) {
  return varied.some(hasValues) || Number(repeat) > 1
}

/** @param {Plan} plan */
function costOf({ count, seconds, price }) {
  const runs = t(count === 1 ? 'oneRun' : 'runCount', { count })
  const time = seconds === null ? t('timeUnknown') : t('about', { time: roundTime(seconds) })
  const money = price === null ? [] : [dollars(price)]
  return [runs, time, ...money].join(', ')
}

/**
 * @param {Plan} plan
 * @param {Varied[]} varied
 */
function orderOf({ axes }, varied) {
  const inputOf = (/** @type {string} */ name) => varied.find((one) => one.name === name)?.input ?? name
  return axes.map(({ names, count }) => `${names.map(inputOf).join(' + ')} (${count})`).join(' × ')
}
