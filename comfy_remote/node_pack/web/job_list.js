// @ts-check
/** The jobs in progress, each with a bar and a button that cancels it. */

import { api } from '../../scripts/api.js'
import { button, element, icon } from './dom.js'
import { t } from './words.js'

/** @import { Job } from './remote_api.js' */
/** @import { RemoteState } from './remote_state.js' */

/**
 * The rows stay the same elements as long as their jobs last: updates come several times a
 * second, and a button that is replaced while it is being pressed is never clicked.
 *
 * @param {RemoteState} state
 * @param {(promptId: string) => void} cancel
 * @returns {{root: HTMLElement, show: () => void}}
 */
export function makeJobList(state, cancel) {
  const none = element('p', { class: 'comfy-remote-quiet' }, t('noJobs'))
  const list = element('ul', { class: 'comfy-remote-jobs' })
  /** @type {Map<string, ReturnType<typeof makeRow>>} */
  let rows = new Map()

  const show = () => {
    none.hidden = state.jobs.length > 0
    const shown = state.jobs.map((job) => {
      const row = rows.get(job.prompt_id) ?? makeRow(job, cancel)
      row.show(job, state.cancelling.has(job.prompt_id))
      return /** @type {const} */ ([job.prompt_id, row])
    })
    const elements = shown.map(([, row]) => row.root)
    const same = elements.length === list.children.length
    if (!same || elements.some((row, place) => row !== list.children[place])) {
      list.replaceChildren(...elements)
    }
    rows = new Map(shown)
  }
  return { root: element('div', {}, none, list), show }
}

/**
 * @param {Job} job
 * @param {(promptId: string) => void} cancel
 */
function makeRow(job, cancel) {
  const words = element('span', { class: 'comfy-remote-quiet' })
  const bar = element('progress', { max: '1' })
  const stop = button(
    {
      class: 'comfy-remote-icon',
      title: t('cancelOnGpu'),
      'aria-label': t('cancelJob', { id: job.prompt_id }),
      onclick: () => cancel(job.prompt_id)
    },
    icon('times')
  )
  const name = element('span', { title: job.prompt_id }, jobName(job))
  const root = element(
    'li',
    { 'data-prompt-id': job.prompt_id },
    element('div', { class: 'comfy-remote-job' }, name, stop),
    bar,
    words
  )
  /** @type {(job: Job, cancelling: boolean) => void} */
  const show = (job, cancelling) => {
    words.textContent = cancelling ? t('cancelling') : jobWords(job)
    stop.disabled = cancelling
    bar.classList.toggle('comfy-remote-estimated', job.estimated)
    if (job.state === 'running' && job.fraction !== null) bar.value = job.fraction
    else bar.removeAttribute('value')
  }
  return { root, show }
}

/**
 * @param {Job} job
 * @returns {string}
 */
function jobName(job) {
  const name = t('jobOn', { id: job.prompt_id.slice(0, 8), target: job.target })
  const elsewhere = job.client_id && job.client_id !== api.clientId
  return elsewhere ? t('otherTab', { job: name }) : name
}

/**
 * @param {Job} job
 * @returns {string}
 */
function jobWords(job) {
  const text = progressWords(job)
  return job.message ? t('withDetail', { text, detail: job.message }) : text
}

/**
 * @param {Job} job  One that has not ended.
 * @returns {string}
 */
function progressWords({ state, fraction, estimated }) {
  if (state !== 'running' || fraction === null) return t(state === 'running' ? 'jobRunning' : 'jobQueued')
  return t(estimated ? 'estimatedPercent' : 'percent', { percent: Math.round(fraction * 100) })
}
