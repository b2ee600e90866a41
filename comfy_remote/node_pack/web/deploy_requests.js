// @ts-check
/** Our routes for endpoints of one's own at RunPod: what the page requests, and what they answer. */

import { ask } from './remote_api.js'

/** @import { Failure, Hint } from './remote_api.js' */

/**
 * @typedef {object} Gpu
 * @property {string} name
 * @property {number} memory  GB.
 * @property {number | null} price  US dollars an hour.
 * @property {boolean | null} free  Whether one is free now; null: not known.
 * @property {string[]} centers  Where one is free.
 */

/**
 * @typedef {'a few an hour' | 'nights' | 'steady'} Use
 */

/**
 * @typedef {object} Wanted  What is filled in. Empty and null: as it is usual, or is there.
 * @property {string} name
 * @property {string[]} gpus
 * @property {number | null} memory  GB, as it was suggested.
 * @property {number} models  Bytes, likewise.
 * @property {Use | null} use
 * @property {string} volume  `GB@DATACENTER`, or an id.
 * @property {string} image
 * @property {string} registry  Id of the account's login for the image's registry.
 * @property {number | null} max_workers
 * @property {number | null} idle  Seconds.
 */

/**
 * @typedef {object} Made  What this machine has on record.
 * @property {string} name
 * @property {string | null} endpoint
 * @property {string | null} volume
 * @property {string | null} target  Its name in the list; null: it is in none.
 * @property {Wanted | null} asked  What was filled in for what is not made whole.
 */

/**
 * @typedef {object} Options  What can be chosen, and what suits the open workflow.
 * @property {string | null} stored  Where the key is that was sent along.
 * @property {Gpu[]} gpus  The smallest first.
 * @property {{id: string, s3: boolean}[]} centers  With volumes.
 * @property {{id: string, name: string, size: number, center: string}[]} volumes
 * @property {{id: string, name: string}[]} registries  Logins for image registries.
 * @property {{use: Use, idle: number | null, workers: number}[]} uses
 * @property {string} image
 * @property {{name: string, gpus: string[], memory: number, by_workflow: boolean, models: number,
 *   volume_size: number}} suggested
 * @property {Made[]} made
 */

/**
 * @typedef {object} Step
 * @property {'make' | 'change' | 'leave' | 'remove'} does
 * @property {'volume' | 'endpoint' | 'target'} kind  A target: that of an endpoint that is gone.
 * @property {string | null} id
 * @property {string} name
 * @property {number | null} per_month  US dollars; null: no price is listed.
 * @property {{least: number, most: number} | null} per_hour  Of a worker that runs.
 * @property {number} [size]  GB of a volume.
 * @property {number | null} [before]  GB that it has.
 * @property {string | null} [center]
 * @property {string[]} [gpus]  What is set of an endpoint, from here on.
 * @property {number | null} [workers]
 * @property {number | null} [active]
 * @property {number | null} [idle]
 * @property {string[]} [centers]
 * @property {string} [image]
 * @property {string} [login]  For the image's registry.
 * @property {number} [disk]
 * @property {number} [minutes]
 */

/** @typedef {{text: string, hint: Hint | null}} Note */

/**
 * @typedef {object} Plan
 * @property {string} plan  What the yes is given to.
 * @property {boolean} removes
 * @property {string} name
 * @property {Step[]} steps
 * @property {number | null} per_month
 * @property {{name: string, state: 'public' | 'not_public' | 'unknown', size: number | null} | null} image
 * @property {Note[]} notes
 */

/**
 * @typedef {object} Doing  What is carried out, or was last.
 * @property {string} name
 * @property {boolean} removes
 * @property {'running' | 'done' | 'failed'} state
 * @property {Step[]} steps
 * @property {number} done  How many of them.
 * @property {Failure | null} error
 * @property {string | null} target  That was added or removed.
 * @property {Note[]} notes
 */

const ROUTE = '/remote/deploy/runpod'

/**
 * @param {{key: string | null, workflow: string, prompt: unknown}} body
 * @returns {Promise<Options>}
 */
export function postOptions(body) {
  return ask(`${ROUTE}/options`, body)
}

/**
 * @param {Wanted} wanted
 * @returns {Promise<Plan>}
 */
export function postPlan(wanted) {
  return ask(`${ROUTE}/plan`, wanted)
}

/**
 * @param {string} name
 * @param {boolean} withVolume  And all that is on it.
 * @returns {Promise<Plan>}
 */
export function postRemoval(name, withVolume) {
  return ask(`${ROUTE}/removal`, { name, with_volume: withVolume })
}

/**
 * Begin what a plan says. Only after its user has seen it and said yes.
 *
 * @param {string} plan
 * @returns {Promise<Doing>}
 */
export function postStart(plan) {
  return ask(`${ROUTE}/start`, { plan })
}

/** @returns {Promise<{now: Doing | null, made: Made[]}>} */
export function postState() {
  return ask(`${ROUTE}/state`, {})
}
