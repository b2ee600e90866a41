// @ts-check
/** Messages in the page's toasts. */

import { app } from '../../scripts/app.js'
import { wordsOf } from './remote_api.js'
import { t } from './words.js'

const SECONDS = { error: 12, warn: 8, info: 5 }

/**
 * @param {string} summary
 * @param {unknown} error  Or a text.
 */
export function showError(summary, error) {
  show('error', summary, typeof error === 'string' ? error : wordsOf(error))
}

/**
 * For what does not stop anything.
 *
 * @param {string} summary
 * @param {unknown} detail  A text or an error.
 */
export function showWarning(summary, detail) {
  show('warn', summary, typeof detail === 'string' ? detail : wordsOf(detail))
}

/**
 * @param {string} summary
 * @param {string} detail
 */
export function showNote(summary, detail) {
  show('info', summary, detail)
}

/**
 * What a remote job that succeeded did not make, or not whole.
 *
 * @param {{node_id: string | null, filename: string | null, reason: string}} problem
 */
export function showProblem({ node_id, filename, reason }) {
  const node = node_id === null ? null : t('nodeNumber', { id: node_id })
  const words = [node, filename, reason].filter((part) => part !== null)
  showWarning(t('outputProblem'), words.join(': '))
}

/**
 * @param {keyof typeof SECONDS} severity
 * @param {string} summary
 * @param {string} detail
 */
function show(severity, summary, detail) {
  app.extensionManager.toast.add({ severity, summary, detail, life: SECONDS[severity] * 1000 })
}
