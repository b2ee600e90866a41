// @ts-check
/** The server's routes for batches: what the page requests, and what they answer. */

import { ask } from './remote_api.js'

/**
 * @typedef {object} Wanted  What a batch is to be.
 * @property {unknown} prompt
 * @property {unknown} workflow
 * @property {string} source
 * @property {string | null} target  null: this ComfyUI.
 * @property {Record<string, string | unknown[]>} vary
 * @property {string[]} zipped
 * @property {number | null} repeat
 */

/**
 * @typedef {object} Plan
 * @property {number} count
 * @property {{names: string[], count: number, first: Record<string, unknown>[]}[]} axes  In the order
 *   of the runs: the last one changes most often.
 * @property {number | null} seconds
 * @property {number | null} price  US dollars.
 * @property {{name: string, message: string, severity: string, lacks: boolean}[]} problems
 */

/**
 * @typedef {object} Batch
 * @property {string} id
 * @property {string} name
 * @property {string | null} target  null: this ComfyUI.
 * @property {'waiting' | 'running' | 'paused' | 'ended' | 'cancelled' | 'interrupted'} state
 * @property {string | null} why
 * @property {boolean} driven
 * @property {number} count
 * @property {number} begun
 * @property {number} succeeded
 * @property {number} failed
 * @property {number} cancelled
 */

/**
 * @typedef {object} Run  One that has ended.
 * @property {number} row
 * @property {string} state
 * @property {Record<string, unknown>} values
 * @property {string | null} thumbnail  Where its first picture is, small.
 */

/**
 * @param {Wanted} wanted
 * @returns {Promise<Plan>}
 */
export function postPlan(wanted) {
  return ask('/remote/batches/plan', wanted)
}

/**
 * @param {Wanted} wanted
 * @returns {Promise<Batch>}
 */
export function postBatch(wanted) {
  return ask('/remote/batches', wanted)
}

/** @returns {Promise<{batches: Batch[]}>} The newest first. */
export function getBatches() {
  return ask('/remote/batches')
}

/**
 * @param {string} id
 * @returns {Promise<{runs: Run[]}>} The newest runs of a batch that have ended.
 */
export function getRuns(id) {
  return ask(`/remote/batches/${id}/runs`)
}

/**
 * @param {string} id
 * @param {number} row
 * @returns {Promise<{inputs: [string, string, unknown][]}>} What a run was made with.
 */
export function getValues(id, row) {
  return ask(`/remote/batches/${id}/runs/${row}`)
}

/**
 * @param {string} id
 * @param {'pause' | 'resume' | 'cancel' | 'retry' | 'remove'} action
 * @returns {Promise<Batch>}
 */
export function postAction(id, action) {
  return ask(`/remote/batches/${id}/${action}`, {})
}
