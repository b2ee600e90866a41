// @ts-check
/** What the panel does with a job: stop it, show what it made or why it failed, run it again. */

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'
import { button, element, openDialog } from './dom.js'
import { getJob, postAgain, postCancelAll, postName } from './job_requests.js'
import { showError, showNote } from './notices.js'
import { mayGoOver, overCapOf } from './over_cap.js'
import { wordsOf } from './remote_api.js'
import { t } from './words.js'

/** @import { ListedJob, Output } from './job_requests.js' */
/** @import { RemoteState } from './remote_state.js' */

/**
 * @typedef {object} JobActions
 * @property {(promptId: string) => void} cancel
 * @property {(count: number) => void} cancelAll
 * @property {(promptId: string, name: string) => void} open
 * @property {(promptId: string, name: string) => void} why
 * @property {(job: ListedJob) => Promise<void>} runAgain
 */

/**
 * @param {RemoteState} state
 * @param {(target: string) => Promise<boolean>} isUsable  Asks the user about a new address.
 * @param {() => void} changeCaps  Opens the form for caps on spending.
 * @param {import('./bring.js').Bring} bring
 * @returns {JobActions}
 */
export function jobActions(state, isUsable, changeCaps, bring) {
  /** @type {(target: string, job: string, close: () => void) => HTMLElement} */
  const bringButton = (target, job, close) =>
    element(
      'div',
      { class: 'comfy-remote-answers' },
      button(
        {
          onclick: () => {
            close()
            void bring({ target, job })
          }
        },
        t('bringIt', { target })
      )
    )
  /** @param {string} promptId */
  const runOnceMore = async (promptId) => {
    try {
      await postAgain(promptId)
    } catch (error) {
      const cap = overCapOf(error)
      if (cap === null) throw error
      if (!(await mayGoOver(cap, changeCaps))) return false
      await postAgain(promptId)
    }
    return true
  }
  return {
    async cancel(promptId) {
      try {
        await state.cancel(promptId)
      } catch (error) {
        showError(t('notCancelled'), error)
      }
    },

    cancelAll(count) {
      const dialog = openDialog(
        t('cancelAll'),
        element('p', {}, t('cancelAllAsk', { count })),
        element(
          'div',
          { class: 'comfy-remote-answers' },
          button({ onclick: () => dialog.close() }, t('keepRunning')),
          button(
            {
              class: 'comfy-remote-button comfy-remote-danger',
              onclick: () => {
                dialog.close()
                void cancelAll(state)
              }
            },
            t('cancelAll')
          )
        )
      )
    },

    async open(promptId, name) {
      try {
        const { outputs, steps } = await getJob(promptId)
        openDialog(name, ...stepsShown(steps), element('div', { class: 'comfy-remote-outputs' }, ...outputs.map(shown)))
      } catch (error) {
        showError(name, error)
      }
    },

    async why(promptId, name) {
      try {
        const { error, said, steps, lacks, target } = await getJob(promptId)
        const dialog = openDialog(
          name,
          element('p', { class: 'comfy-remote-problem' }, error ? wordsOf(error) : t('jobFailedShort')),
          ...stepsShown(steps),
          ...said.map(({ message }) => element('p', { class: 'comfy-remote-advice' }, message)),
          ...(lacks ? [bringButton(target, promptId, () => dialog.close())] : []),
          element('p', { class: 'comfy-remote-foot' }, promptId)
        )
      } catch (error) {
        showError(name, error)
      }
    },

    async runAgain(job) {
      try {
        if (!(await isUsable(job.target))) return
        if (!(await runOnceMore(job.prompt_id))) return
        showNote(t('runsAgain'), t('runsAgainOn', { target: job.target }))
      } catch (error) {
        showError(t('notRunAgain'), error)
      }
    }
  }
}

/** @param {RemoteState} state */
async function cancelAll(state) {
  for (const { prompt_id } of state.jobs) state.cancelling.add(prompt_id)
  try {
    const { failed } = await postCancelAll()
    for (const { error } of failed) showError(t('notCancelled'), error)
  } catch (error) {
    showError(t('notCancelled'), error)
  } finally {
    state.cancelling.clear()
    await state.refresh().catch(() => null)
  }
}

/**
 * Tell the server what the workflow of a job is called, which no prompt says: as the job begins,
 * it is the workflow that is open.
 *
 * @param {{prompt_id: string, workflow_id?: string | null}} job  From the server's message; its first
 *   one has the workflow's id, which is null in old workflows.
 */
export function nameJob({ prompt_id, workflow_id }) {
  if (workflow_id === undefined) return
  const name = nameOfWorkflow(workflow_id)
  if (name) void postName(prompt_id, name).catch(() => null) // it is listed without
}

/**
 * @param {string | null} id
 * @returns {string | null}
 */
function nameOfWorkflow(id) {
  // The declared types know the store's public part only.
  const store = /** @type {any} */ (app.extensionManager).workflow
  const idOf = (/** @type {any} */ workflow) => workflow?.activeState?.id
  const open = [store?.activeWorkflow, ...(store?.openWorkflows ?? [])]
  const found = id === null ? open[0] : open.find((workflow) => idOf(workflow) === id)
  return typeof found?.filename === 'string' ? found.filename : null
}

/**
 * Where a route has sent a job, and why, each time.
 *
 * @param {import('./job_requests.js').JobDetails['steps']} steps
 */
function stepsShown(steps) {
  return steps.map(({ member, why }) => element('p', { class: 'comfy-remote-quiet' }, why || member))
}

/**
 * @param {Output} output
 * @returns {HTMLElement}
 */
function shown({ filename, kind, path, there, view }) {
  if (!there) return element('p', { class: 'comfy-remote-quiet' }, t('fileGone', { file: filename }))
  // ComfyUI shows what is in its own folders only.
  if (view === null) return element('p', {}, element('code', {}, path))
  const src = api.apiURL(`/view?${new URLSearchParams(view)}`)
  return element(
    'figure',
    {},
    media(kind, src, filename),
    element(
      'figcaption',
      {},
      element('a', { href: src, target: '_blank', rel: 'noopener', title: path }, filename)
    )
  )
}

/**
 * @param {string} kind
 * @param {string} src
 * @param {string} alt
 * @returns {HTMLElement | null}
 */
function media(kind, src, alt) {
  if (kind === 'image') return element('img', { src, alt, loading: 'lazy' })
  if (kind === 'video') return element('video', { src, controls: true, preload: 'metadata' })
  return kind === 'audio' ? element('audio', { src, controls: true }) : null
}
