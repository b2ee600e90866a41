// @ts-check
/** The server's routes for what is brought to a target: what is planned, shown, begun and stopped. */

import { ask, lines } from './remote_api.js'

/** @import { Failure } from './remote_api.js' */

/**
 * @typedef {object} Want  What is to be planned. Without `job` and `again`, it is the open graph.
 * @property {string} target
 * @property {object} [prompt]  In API format.
 * @property {object} [workflow]  In UI format.
 * @property {string[]} [nodes]  Of the open graph: no others are to run there.
 * @property {Record<string, unknown[]>} [values]  Further ones of its inputs, by `NODE.input`.
 * @property {string} [job]  The id of a job that needed it.
 * @property {string} [again]  The id of what had begun once.
 */

/**
 * @typedef {object} PlannedStep
 * @property {number} number
 * @property {string} kind
 * @property {string} name
 * @property {'install' | 'link' | 'fetch' | 'send' | 'volume' | 'bucket' | 'impossible'} way
 * @property {string} why
 * @property {string} what_to_do  Where it is impossible.
 * @property {number | null} size
 * @property {string | null} address  Of a node pack, exactly which code.
 * @property {string | null} by  Who names the address; `workflow`: it may be anybody's.
 * @property {string[]} commands  For a shell there, where it has to be done by hand.
 * @property {boolean} chosen  Unless somebody says otherwise.
 */

/**
 * @typedef {object} Plan
 * @property {string} id
 * @property {string} target
 * @property {PlannedStep[]} steps
 * @property {string[]} core  Classes of ComfyUI's own that the target does not have.
 * @property {{sent: number | null, fetched: number | null}} speeds  Bytes a second, earlier.
 * @property {string[]} notes
 */

/**
 * @typedef {object} BroughtStep
 * @property {string} kind
 * @property {string} name
 * @property {number | null} size
 * @property {'waiting' | 'running' | 'there' | 'linked' | 'fetched' | 'sent' | 'installed' | 'failed' | 'stopped'} state
 * @property {number | null} done
 * @property {number | null} total
 * @property {string} message
 * @property {number | null} seconds  Since it began.
 * @property {Failure | null} error
 */

/**
 * @typedef {object} Brought  What is on its way to a target, or was.
 * @property {string} id
 * @property {string} target
 * @property {'running' | 'ended' | 'failed' | 'stopped' | 'interrupted'} state
 * @property {Failure | null} error
 * @property {BroughtStep[]} steps
 */

/**
 * @typedef {{doing: 'here' | 'target' | 'reading' | 'sites', done: number, total: number}} Doing
 */

/**
 * @param {Want} want
 * @returns {AsyncGenerator<Partial<Doing> & {plan?: Plan, members?: string[], error?: Failure}>}
 */
export function planLines(want) {
  return lines('/remote/bring/plan', want)
}

/**
 * Do what was shown. Only after its user has been asked.
 *
 * @param {string} plan
 * @param {number[]} steps
 * @returns {Promise<Brought>}
 */
export function postBring(plan, steps) {
  return ask('/remote/bring', { plan, steps })
}

/** @returns {Promise<{bringing: Brought[]}>} */
export function getBringing() {
  return ask('/remote/bring')
}

/**
 * @param {string} id
 * @returns {Promise<Brought>}
 */
export function postStop(id) {
  return ask(`/remote/bring/${encodeURIComponent(id)}/stop`, {})
}

/**
 * @param {string} id
 * @returns {Promise<unknown>}
 */
export function deleteBrought(id) {
  return ask(`/remote/bring/${encodeURIComponent(id)}`, {}, 'DELETE')
}
