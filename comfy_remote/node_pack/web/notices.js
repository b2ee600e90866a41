// @ts-check
/** What we tell in the page's toasts. */

import { app } from '../../scripts/app.js'
import { asRemoteError } from './remote_api.js'

const SECONDS = { error: 12, warn: 8, info: 5 }

/**
 * @param {string} summary
 * @param {unknown} error
 */
export function showError(summary, error) {
  show('error', summary, wordsOf(error))
}

/**
 * For what is in the way of nothing.
 *
 * @param {string} summary
 * @param {unknown} error
 */
export function showWarning(summary, error) {
  show('warn', summary, wordsOf(error))
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
  const node = node_id === null ? null : `Node ${node_id}`
  const words = [node, filename, reason].filter((part) => part !== null)
  show('warn', 'An output is missing or damaged', words.join(': '))
}

/**
 * @param {string} summary
 * @param {string} detail
 */
export function showCaution(summary, detail) {
  show('warn', summary, detail)
}

/** @param {unknown} error */
function wordsOf(error) {
  const { message, advice } = asRemoteError(error)
  return advice ? `${message} ${advice}` : message
}

/**
 * @param {keyof typeof SECONDS} severity
 * @param {string} summary
 * @param {string} detail
 */
function show(severity, summary, detail) {
  app.extensionManager.toast.add({ severity, summary, detail, life: SECONDS[severity] * 1000 })
}
