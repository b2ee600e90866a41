// @ts-check
/** What we tell in the page's toasts. */

import { app } from '../../scripts/app.js'
import { asRemoteError } from './remote_api.js'

const ERROR_SECONDS = 12
const NOTE_SECONDS = 5

/**
 * @param {string} summary
 * @param {unknown} error
 */
export function showError(summary, error) {
  const { message, advice } = asRemoteError(error)
  const detail = advice ? `${message} ${advice}` : message
  app.extensionManager.toast.add({ severity: 'error', summary, detail, life: ERROR_SECONDS * 1000 })
}

/**
 * @param {string} summary
 * @param {string} detail
 */
export function showNote(summary, detail) {
  app.extensionManager.toast.add({ severity: 'info', summary, detail, life: NOTE_SECONDS * 1000 })
}
