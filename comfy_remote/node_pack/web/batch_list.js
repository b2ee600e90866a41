// @ts-check
/** The panel's batches: how far each is, its newest pictures, and what can be done with it. */

import { api } from '../../scripts/api.js'
import { getBatches, getRuns, getValues, postAction } from './batch_requests.js'
import { button, element, openDialog } from './dom.js'
import { showError, showNote } from './notices.js'
import { t } from './words.js'
import { useValues } from './vary.js'

/** @import { Batch, Run } from './batch_requests.js' */

const POLL_MS = 3000
const SLOW_POLL_MS = 15000
const FEW = 3
const UNDER_WAY = ['waiting', 'running', 'paused']
const CHANNEL = 'comfy-remote-sheet'

/** @typedef {'pause' | 'resume' | 'cancel' | 'retry' | 'remove'} Action */

/**
 * @returns {{root: HTMLElement, ask: () => void}}
 */
export function makeBatchList() {
  const list = element('ul', { class: 'comfy-remote-jobs comfy-remote-batches' })
  const older = button({ class: 'comfy-remote-link', hidden: true, onclick: () => {
    all = true
    show()
  } }, t('moreBatches'))
  const root = element('div', { hidden: true }, element('h3', {}, t('batches')), list, older)
  /** @type {Map<string, ReturnType<typeof batchRow>>} */
  let rows = new Map()
  /** @type {Batch[]} */
  let batches = []
  let all = false

  const show = () => {
    const shown = batches.filter((batch, place) => all || place < FEW || UNDER_WAY.includes(batch.state))
    const fresh = new Map(shown.map((batch) => [batch.id, rows.get(batch.id) ?? batchRow(batch, ask)]))
    for (const batch of shown) fresh.get(batch.id)?.show(batch)
    const elements = [...fresh.values()].map((row) => row.root)
    const same = elements.length === list.children.length
    if (!same || elements.some((one, place) => one !== list.children[place])) list.replaceChildren(...elements)
    rows = fresh
    root.hidden = batches.length === 0
    older.hidden = shown.length === batches.length
  }
  const ask = async () => {
    try {
      batches = (await getBatches()).batches
      show()
    } catch {
      // The panel says that the server does not answer; what was listed stays.
    }
  }
  void ask()
  let waited = 0
  const poll = setInterval(() => {
    if (!root.isConnected) {
      if (waited++ > 1) clearInterval(poll)
      return
    }
    waited += POLL_MS
    // One that waits is about to be driven: its process is starting.
    const busy = batches.some((batch) => batch.driven || batch.state === 'waiting')
    const slow = !busy && waited % SLOW_POLL_MS !== 0
    if (!document.hidden && !slow) void ask()
  }, POLL_MS)
  return { root, ask: () => void ask() }
}

/** Have a sheet that is open in another tab set the widgets of this one's graph. */
export function listenToSheets() {
  const channel = new BroadcastChannel(CHANNEL)
  channel.addEventListener('message', ({ data }) => {
    if (data?.tab !== api.clientId) return
    if (typeof data.batch !== 'string' || !Number.isInteger(data.row)) return
    void use(data.batch, data.row)
  })
}

/**
 * @param {string} id
 * @param {number} row
 */
async function use(id, row) {
  try {
    const { inputs } = await getValues(id, row)
    const found = useValues(inputs)
    const words = inputs.map(([, input, value]) => `${input} = ${String(value)}`).join('\n')
    if (found === inputs.length) showNote(t('valuesUsed'), words)
    else showNote(t('valuesUsed'), t('valuesMissing', { count: inputs.length - found }))
  } catch (error) {
    showError(t('valuesNotUsed'), error)
  }
}

/**
 * @param {Batch} first
 * @param {() => void} changed
 */
function batchRow(first, changed) {
  const { id, name } = first
  const words = element('span', { class: 'comfy-remote-quiet' })
  const why = element('p', { class: 'comfy-remote-quiet comfy-remote-clamped', hidden: true })
  const bar = element('progress', { max: '1' })
  const pictures = element('div', { class: 'comfy-remote-pictures', hidden: true })
  /** @type {(action: Action, word: keyof import('./words.js').Words) => HTMLButtonElement} */
  const act = (action, word) =>
    button(
      { class: 'comfy-remote-button comfy-remote-small', onclick: () => void perform(first, action, changed) },
      t(word)
    )
  const pause = act('pause', 'pause')
  const resume = act('resume', 'resume')
  const cancel = act('cancel', 'cancel')
  const retry = act('retry', 'retryFailed')
  const remove = act('remove', 'forget')
  const sheet = element(
    'a',
    {
      class: 'comfy-remote-button comfy-remote-small',
      href: api.apiURL(`/remote/batches/${id}/sheet/sheet.html#tab=${api.clientId}`),
      target: `comfy-remote-${id}`
    },
    t('sheet')
  )
  const root = element(
    'li',
    { 'data-batch-id': id },
    element('div', { class: 'comfy-remote-job' }, element('span', { class: 'comfy-remote-name' }, name)),
    bar,
    words,
    why,
    pictures,
    element('div', { class: 'comfy-remote-changes' }, sheet, pause, resume, retry, cancel, remove)
  )
  let ended = -1

  /** @type {(batch: Batch) => void} */
  const show = (batch) => {
    const done = batch.succeeded + batch.failed + batch.cancelled
    const final = batch.state === 'ended' || batch.state === 'cancelled'
    bar.value = batch.count > 0 ? done / batch.count : 1
    bar.hidden = final
    words.textContent = wordsOf(batch, done)
    why.textContent = batch.why ?? ''
    why.hidden = !batch.why
    pause.hidden = !batch.driven || batch.state !== 'running'
    resume.hidden = final || batch.driven
    cancel.hidden = final
    retry.hidden = batch.failed + batch.cancelled === 0 || batch.driven
    remove.hidden = batch.driven
    sheet.hidden = done === 0
    if (done !== ended) {
      ended = done
      void showPictures(batch, pictures)
    }
  }
  return { root, show }
}

/**
 * @param {Batch} batch
 * @param {HTMLElement} place
 */
async function showPictures(batch, place) {
  const { runs } = await getRuns(batch.id).catch(() => ({ runs: [] }))
  place.replaceChildren(
    ...runs.filter(({ thumbnail }) => thumbnail !== null).map((run) => picture(batch, run))
  )
  place.hidden = place.children.length === 0
}

/**
 * @param {Batch} batch
 * @param {Run} run
 */
function picture(batch, { row, values, thumbnail }) {
  const words = Object.entries(values).map(([name, value]) => `${name} = ${String(value)}`).join('\n')
  return button(
    {
      class: 'comfy-remote-picture',
      title: `${words}\n${t('useValues')}`,
      onclick: () => void use(batch.id, row)
    },
    element('img', { src: api.apiURL(String(thumbnail)), alt: words, loading: 'lazy' })
  )
}

/**
 * @param {Batch} batch
 * @param {Action} action
 * @param {() => void} changed
 */
async function perform(batch, action, changed) {
  if ((action === 'cancel' || action === 'remove') && !(await isSure(batch, action))) return
  try {
    await postAction(batch.id, action)
  } catch (error) {
    showError(batch.name, error)
  }
  changed()
}

/**
 * @param {Batch} batch
 * @param {'cancel' | 'remove'} action
 * @returns {Promise<boolean>}
 */
function isSure(batch, action) {
  return new Promise((resolve) => {
    let sure = false
    const dialog = openDialog(
      batch.name,
      element('p', {}, t(action === 'cancel' ? 'cancelBatchAsk' : 'forgetBatchAsk')),
      element(
        'div',
        { class: 'comfy-remote-answers' },
        button({ onclick: () => dialog.close() }, t('keepBatch')),
        button(
          { class: 'comfy-remote-button comfy-remote-danger', onclick: () => {
            sure = true
            dialog.close()
          } },
          t(action === 'cancel' ? 'cancelBatch' : 'forget')
        )
      )
    )
    dialog.addEventListener('close', () => resolve(sure))
  })
}

/**
 * @param {Batch} batch
 * @param {number} done
 */
function wordsOf(batch, done) {
  const words = [t('runsDone', { done, count: batch.count })]
  if (batch.failed > 0) words.push(t('runsFailed', { count: batch.failed }))
  if (batch.begun > 0 && batch.driven) words.push(t('runsRunning', { count: batch.begun }))
  /** @type {Record<Batch['state'], keyof import('./words.js').Words | null>} */
  const states = {
    waiting: 'batchWaiting',
    running: null,
    paused: 'batchPaused',
    ended: null,
    cancelled: 'batchCancelled',
    interrupted: 'batchInterrupted'
  }
  const state = states[batch.state]
  if (state !== null) words.push(t(state))
  return [...words, batch.target ?? t('here')].join(' · ')
}
