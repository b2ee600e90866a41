// @ts-check
/** The server's routes for jobs: what the panel requests, and what they answer. */

import { api } from '../../scripts/api.js'
import { ask } from './remote_api.js'

/**
 * @typedef {object} ListedJob  Times are in seconds since the epoch, by the server's clock.
 * @property {string} prompt_id
 * @property {boolean} followed  By this ComfyUI, which tells the page of each change.
 * @property {'job' | 'part' | 'node'} kind
 * @property {string} name  Of its workflow; may be empty.
 * @property {string} target
 * @property {string | null} member  Of a route, the one that has the job.
 * @property {{at: number | null, saved: number | null} | null} cached  Of a job that did not run: when
 *   its result was made, and what that saved in US dollars.
 * @property {string | null} client_id
 * @property {string} state
 * @property {number} created
 * @property {number | null} started
 * @property {number | null} ended
 * @property {number} seen  When its state was last known.
 * @property {number | null} fraction
 * @property {boolean} estimated
 * @property {string | null} phase  As a `Job` has it.
 * @property {string} message
 * @property {number | null} remaining  Seconds; while it waits, of the whole run.
 * @property {number | null} run_seconds
 * @property {{dollars: number, estimated: boolean, at_most: boolean} | null} cost
 * @property {{seconds: number, dollars: number | null} | null} expected  Before it ran.
 * @property {number} outputs
 * @property {string | null} error
 * @property {number} attempt  Which run of the same prompt it is, from 1.
 * @property {boolean} again  Whether it can be run again by itself.
 * @property {string | null} batch  The name of the batch that it is a run of.
 */

/**
 * @typedef {object} Output
 * @property {string} filename
 * @property {string} kind  `image`, `video`, `audio` and so on.
 * @property {number} size
 * @property {string} path
 * @property {boolean} there  Whether the file still is.
 * @property {Record<string, string> | null} view  What ComfyUI's `/view` takes for it.
 */

/**
 * @typedef {object} JobDetails
 * @property {Output[]} outputs
 * @property {import('./remote_api.js').Failure | null} error
 * @property {boolean} lacks  Whether its target refused it for want of a model or a node.
 * @property {string} target  That had it.
 * @property {{at: number, message: string}[]} said
 * @property {{member: string, at: number, state: string, why: string}[]} steps  Of a route.
 */

/**
 * @param {number} limit  Of those that have ended.
 * @returns {Promise<{now: number, jobs: ListedJob[], more: boolean,
 *   today?: import('./spending_api.js').Today}>} Those in progress come first.
 */
export function getRecentJobs(limit) {
  return ask(`/remote/jobs/recent?limit=${limit}`)
}

/**
 * @param {string} promptId
 * @returns {Promise<JobDetails>}
 */
export function getJob(promptId) {
  return ask(`/remote/jobs/${encodeURIComponent(promptId)}`)
}

/**
 * @param {string} promptId
 * @returns {Promise<{prompt_id: string}>}
 */
export function postAgain(promptId) {
  return ask(`/remote/jobs/${encodeURIComponent(promptId)}/again`, { client_id: api.clientId })
}

/** @returns {Promise<{cancelled: string[], failed: {error: import('./remote_api.js').Failure}[]}>} */
export function postCancelAll() {
  return ask('/remote/jobs/cancel', { client_id: api.clientId })
}

/**
 * @param {string} promptId
 * @param {string} name  Of its workflow.
 * @returns {Promise<unknown>}
 */
export function postName(promptId, name) {
  return ask(`/remote/jobs/${encodeURIComponent(promptId)}/name`, { name })
}
