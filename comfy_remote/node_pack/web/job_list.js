// @ts-check
/** The jobs under way, with a bar and a way to cancel each. */

import { api } from '../../scripts/api.js'
import { element, icon } from './dom.js'

/** @import { Job } from './remote_api.js' */
/** @import { RemoteState } from './remote_state.js' */

/**
 * @param {RemoteState} state
 * @param {(promptId: string) => void} cancel
 * @returns {HTMLElement}
 */
export function jobList(state, cancel) {
  if (state.jobs.length === 0) {
    return element('p', { class: 'comfy-remote-quiet' }, 'No job is under way.')
  }
  return element(
    'ul',
    { class: 'comfy-remote-jobs' },
    ...state.jobs.map((job) => {
      const cancelling = state.cancelling.has(job.prompt_id)
      return element(
        'li',
        { 'data-prompt-id': job.prompt_id },
        element(
          'div',
          { class: 'comfy-remote-job' },
          element('span', { title: job.prompt_id }, jobName(job)),
          element(
            'button',
            {
              type: 'button',
              class: 'comfy-remote-icon',
              title: 'Cancel this job on the GPU',
              'aria-label': `Cancel job ${job.prompt_id}`,
              disabled: cancelling,
              onclick: () => cancel(job.prompt_id)
            },
            icon('times')
          )
        ),
        bar(job),
        element('span', { class: 'comfy-remote-quiet' }, cancelling ? 'cancelling …' : jobWords(job))
      )
    })
  )
}

/**
 * @param {Job} job
 * @returns {string}
 */
function jobName(job) {
  const elsewhere = job.client_id && job.client_id !== api.clientId ? ' (another tab)' : ''
  return `${job.prompt_id.slice(0, 8)} on ${job.target}${elsewhere}`
}

/**
 * @param {Job} job
 * @returns {string}
 */
function jobWords(job) {
  const said = job.message ? `: ${job.message}` : ''
  if (job.state !== 'running' || job.fraction === null) return job.state + said
  const percent = `${Math.round(job.fraction * 100)} %`
  return (job.estimated ? `about ${percent} (estimated)` : percent) + said
}

/**
 * @param {Job} job
 * @returns {HTMLElement}
 */
function bar(job) {
  const known = job.state === 'running' && job.fraction !== null
  return element('progress', {
    max: '1',
    class: job.estimated ? 'comfy-remote-estimated' : '',
    value: known ? String(job.fraction) : null
  })
}
