// @ts-check
/** Our routes in ComfyUI's server: what the page requests, and what they answer. */

import { api } from '../../scripts/api.js'
import { adviceFor, t } from './words.js'

/**
 * @typedef {object} Key  Whether the target's key is known to the server. Never the key.
 * @property {string | null} variable  The environment variable it is read from.
 * @property {boolean} set
 * @property {boolean} needed
 */

/**
 * @typedef {object} Target
 * @property {string} name
 * @property {string} address
 * @property {string | null} type  `runpod`, `modal`, `pod`, `comfyui`, `sandbox`, or a package's.
 * @property {string | null} title  The same for people, in English.
 * @property {'by run' | 'by hour' | null} billing  null: it costs nothing by itself.
 * @property {boolean} default
 * @property {Key} key
 * @property {Form | null} form  null: it cannot be changed in the page.
 * @property {string | null} folder  The file that brought it, if that is not the owner's.
 */

/**
 * @typedef {object} Form  What is filled in for a target.
 * @property {'runpod' | 'comfyui' | 'gateway' | 'modal' | 'comfy' | 'route'} kind
 * @property {string} address  Of a route, its members: `route:lan,gpu`.
 * @property {string} endpoint  Of a gateway.
 * @property {number | null} price_per_hour
 * @property {string | null} [prefer]  Of a route.
 * @property {string} [name]
 * @property {string | null} [key]  Only on its way to the server.
 * @property {string | null} [secret]  The second half of a token, likewise.
 */

/**
 * @typedef {object} Setup  What can be set up in the page, and where it goes.
 * @property {string} file
 * @property {string} keys
 * @property {boolean} default  Whether a target is configured to be the usual one.
 * @property {boolean} account  Whether the key of a RunPod account is known.
 * @property {string | null} refused  Why nothing can be set up from this browser.
 * @property {string[]} deploying  Endpoints that are being made at RunPod, or were and are not whole.
 * @property {{path: string, named: string[]}[]} untrusted
 */

/**
 * @typedef {object} Finding  What one check of a target found.
 * @property {string} check
 * @property {'ok' | 'warning' | 'problem' | 'skipped'} status
 * @property {string} message
 * @property {string} advice
 */

/**
 * @typedef {object} Account  What a RunPod account has.
 * @property {{address: string, name: string, text: string}[]} targets
 * @property {string | null} stored  Where the key is that was sent along.
 */

/**
 * @typedef {object} Job
 * @property {string} prompt_id
 * @property {string} target
 * @property {string} state  `queued`, `running`, `succeeded`, `failed`, `cancelled`, `expired`
 * @property {number | null} fraction  0 to 1; null while unknown.
 * @property {boolean} estimated  The fraction is a guess, not the engine's own word.
 * @property {string | null} [phase]  `starting`, `throttled` (no GPU is free), `loading`, `computing`
 * @property {string} [client_id]
 * @property {number} [created]  Seconds since the epoch.
 * @property {string} [message]
 */

/**
 * @typedef {object} Status
 * @property {string} version
 * @property {string | null} target  Where this client's prompts go; null: nowhere else.
 * @property {Target[]} targets
 * @property {Job[]} jobs
 * @property {string[]} unused  A sentence for each file that is ignored because it is not trusted.
 * @property {Setup} setup
 */

/**
 * @typedef {object} Failure
 * @property {string} message
 * @property {string} advice  What to do about it; may be empty.
 * @property {Record<string, unknown>} [details]
 * @property {Hint} [hint]  The same by code.
 */

/**
 * @typedef {object} Hint
 * @property {string} code
 * @property {Record<string, string | number>} facts
 * @property {string} [command]  What to type for comfy-remote where the server runs.
 */

/** @typedef {'ready' | 'asleep' | 'waking' | 'unusable'} Condition */

/**
 * @typedef {object} WarmUp  How starting a worker ahead goes.
 * @property {number | null} seconds  Since it has been starting; null: none is.
 * @property {Failure | null} error  Why the last one failed.
 * @property {number | null} until  A worker is kept until then, in seconds since the epoch.
 * @property {boolean} can_keep
 */

/**
 * @typedef {object} Details  What a target says of itself.
 * @property {string} name
 * @property {string} address
 * @property {Condition} state
 * @property {number | null} last_start  Seconds that a worker took to start the last time.
 * @property {WarmUp | null} warm_up  null: no worker can be started ahead there.
 * @property {number | null} price_per_hour
 * @property {{ready: number | null, running: number | null, queued: number | null,
 *   starting: number, throttled: number} | null} health
 * @property {string | null} device
 * @property {string | null} engine
 * @property {boolean | null} known  Whether it lists its models and nodes; null: not asked.
 * @property {Failure | null} error
 * @property {string | null} advice
 */

/**
 * @typedef {object} Estimate  What is known of one run of a prompt on a target.
 * @property {string} target
 * @property {number | null} seconds  null: nothing like it has run there.
 * @property {number} runs  How many past runs say so.
 * @property {string[]} scaled  What differs from them: `steps 20 → 40`.
 * @property {number | null} price_per_hour
 * @property {number | null} price  US dollars; null: time or price is not known.
 * @property {'by run' | 'by hour' | null} billing
 * @property {string | null} member  Of a route, the one that it is about.
 */

/**
 * @typedef {object} Additions  What a target has and this ComfyUI lacks.
 * @property {string} target
 * @property {boolean} known  Whether the target lists what it has. If not, the rest is empty.
 * @property {Record<string, import('@comfyorg/comfyui-frontend-types').ComfyNodeDef>} nodes
 * @property {Record<string, Record<string, unknown[]>>} choices  Values by class and input.
 */

/**
 * @typedef {object} Crossing  A value that crosses between here and a target.
 * @property {string} key
 * @property {string} node_id  The node that makes it.
 * @property {number} output
 * @property {string} type
 * @property {{node_id: string, input: string}[]} to
 * @property {number | null} size  About how many bytes; null: unknown.
 */

/**
 * @typedef {object} Part  What runs elsewhere as one job.
 * @property {string} name  Of the target.
 * @property {string} node_id
 * @property {string[]} nodes
 * @property {string[]} copies  Made there as well as here.
 * @property {Crossing[]} inputs
 * @property {Crossing[]} outputs
 * @property {string[]} saves
 * @property {string[]} files
 */

/**
 * @typedef {object} Cut
 * @property {string[]} here
 * @property {Part[]} parts
 * @property {string[]} notes
 * @property {'exact' | 'png' | 'webp'} images
 */

/**
 * @typedef {object} AskingNode  A node of the graph that names an address.
 * @property {string} node_id
 * @property {string} title
 * @property {string} address
 */

/**
 * @typedef {object} Refused  Why the server did not do something.
 * @property {string} address  That nobody has confirmed yet.
 * @property {AskingNode[]} nodes  All that name such an address.
 */

/** A refusal, with what to do about it. */
export class RemoteError extends Error {
  /**
   * @param {string} message
   * @param {string} advice
   * @param {Refused | null} confirm  What the user has to be asked about first.
   * @param {Failure['hint']} hint
   * @param {import('./spending_api.js').OverCap | null} cap  The cap on spending that it would go over.
   * @param {{target: string, nodes: string[]} | null} lacking  The nodes of the graph that would have to run
   *   on a target that does not have them.
   */
  constructor(message, advice = '', confirm = null, hint = undefined, cap = null, lacking = null) {
    super(message)
    this.name = 'RemoteError'
    this.advice = advice
    this.confirm = confirm
    this.hint = hint
    this.cap = cap
    this.lacking = lacking
  }
}

/** ComfyUI serves these scripts and none of our routes: the pack's Python part was not loaded. */
export class ServerPartMissing extends RemoteError {}

/**
 * @param {unknown} error
 * @returns {RemoteError}
 */
export function asRemoteError(error) {
  if (error instanceof RemoteError) return error
  const message = error instanceof Error ? error.message : String(error)
  return new RemoteError(message, t('isComfyRunning'))
}

/**
 * @param {unknown} error
 * @returns {string} What happened, and what to do about it.
 */
export function wordsOf(error) {
  const { message, advice, hint } = isFailure(error) ? error : asRemoteError(error)
  return `${message} ${(hint && adviceFor(hint)) ?? advice}`.trim()
}

/**
 * @param {unknown} error
 * @returns {error is Failure}
 */
function isFailure(error) {
  return typeof error === 'object' && error !== null && 'message' in error && 'advice' in error
}

/**
 * @param {string | undefined} clientId
 * @returns {Promise<Status>}
 */
export function getStatus(clientId) {
  const query = clientId ? `?client_id=${encodeURIComponent(clientId)}` : ''
  return ask(`/remote/status${query}`)
}

/**
 * @param {string} clientId
 * @param {string | null} target  A name or an address; null switches Remote off.
 * @param {string | null} usual  Where it would switch to, for marked nodes.
 * @param {boolean} repoList  Whether jobs ask for the models of a node titled `repo_list`.
 * @param {string | null} cache  `use` or `off`; null for what is configured.
 * @returns {Promise<{target: string | null}>}
 */
export function postSwitch(clientId, target, usual, repoList, cache) {
  return ask('/remote/switch', { client_id: clientId, target, usual, repo_list: repoList, cache })
}

/**
 * What would run where, by the marks in the workflow. Nothing runs.
 *
 * @param {{client_id: string | undefined, prompt: object, workflow: object}} body
 * @returns {Promise<Cut>}
 */
export function postCut(body) {
  return ask('/remote/cut', body)
}

/**
 * @param {string} target
 * @param {unknown} prompt  In API format.
 * @returns {Promise<Estimate>}
 */
export function getEstimate(target, prompt) {
  return ask('/remote/estimate', { target, prompt })
}

/**
 * @param {string} target
 * @returns {Promise<Details>}
 */
export function getDetails(target) {
  return ask(`/remote/targets/${encodeURIComponent(target)}`)
}

/**
 * @param {string} target
 * @returns {Promise<Additions>}
 */
export function getAdditions(target) {
  return ask(`/remote/object_info?target=${encodeURIComponent(target)}`)
}

/**
 * Start one of a target's workers ahead, or take that back.
 *
 * @param {string} target
 * @param {boolean} on
 * @param {number | null} seconds  For which it is kept; null: until it has been idle for long enough.
 * @returns {Promise<unknown>}
 */
export function postWarm(target, on, seconds = null) {
  return ask('/remote/warm', seconds === null ? { target, on } : { target, on, seconds })
}

/**
 * @param {string} target  A name or an address.
 * @returns {Promise<{target: string, confirmed: boolean, address: string | null, command: string}>} The
 *   address that nobody has confirmed yet, if there is one; what to type for comfy-remote there.
 */
export function getAddress(target) {
  return ask(`/remote/addresses?target=${encodeURIComponent(target)}`)
}

/**
 * Trust a target's address. Only after its user has been asked.
 *
 * @param {string} target
 * @returns {Promise<unknown>}
 */
export function postAddress(target) {
  return ask('/remote/addresses', { target })
}

/**
 * @param {string} promptId
 * @returns {Promise<unknown>}
 */
export function postCancel(promptId) {
  return ask(`/remote/jobs/${encodeURIComponent(promptId)}/cancel`, {})
}

/**
 * @param {string | null} key  Of a RunPod account; null for the one that the server knows.
 * @returns {Promise<Account>}
 */
export function postAccount(key) {
  return ask('/remote/account', key === null ? {} : { key })
}

/**
 * Test a target and write it: a line for each check, and one for the end.
 *
 * @param {Form & {replaces: string | null, test: boolean}} form
 * @returns {AsyncGenerator<{finding?: Finding, added?: string, refused?: string, error?: Failure}>}
 */
export function putTarget(form) {
  return lines('/remote/targets', form)
}

/**
 * What a route answers line by line. Whoever reads no further ends the request.
 *
 * @param {string} route
 * @param {object} body
 * @returns {AsyncGenerator<any>}
 */
export async function* lines(route, body) {
  const response = await send(route, body)
  if (!response.ok || response.body === null) throw await refusal(route, response)
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let text = ''
  try {
    for (;;) {
      const { value, done } = await reader.read()
      if (done) return
      text += value
      const whole = text.split('\n')
      text = whole.pop() ?? ''
      for (const line of whole) yield JSON.parse(line)
    }
  } finally {
    await reader.cancel()
  }
}

/**
 * @param {string} name
 * @returns {Promise<unknown>}
 */
export function deleteTarget(name) {
  return ask(`/remote/targets/${encodeURIComponent(name)}`, {}, 'DELETE')
}

/**
 * Trust what a folder's file names. Only after its user has been shown all of that.
 *
 * @param {{path: string, named: string[]}} file
 * @returns {Promise<unknown>}
 */
export function postTrust(file) {
  return ask('/remote/trust', file)
}

/**
 * @typedef {object} OpenedPacked  What a packed workflow holds. Its files are in the input folder.
 * @property {any} workflow  UI format; null where it has none.
 * @property {any} prompt  API format; null where it has none.
 * @property {string[]} inputs
 * @property {string[]} left_out  Addresses of models that it names, and the workflow is without.
 */

/**
 * @param {Blob} file
 * @returns {Promise<OpenedPacked>}
 */
export async function postPacked(file) {
  const route = '/remote/packed'
  const headers = { 'Comfy-Remote-Page': '1', 'Content-Type': 'application/zip' }
  const response = await api.fetchApi(route, { method: 'POST', headers, body: file })
  const answer = await response.clone().json().catch(() => null)
  if (response.ok && answer !== null) return answer
  throw await refusal(route, response)
}

/**
 * @param {string} route
 * @param {object} [body]  Sent as JSON where given.
 * @param {string} [method]
 * @returns {Promise<any>}
 */
export async function ask(route, body, method) {
  const response = await send(route, body, method)
  const answer = await response.clone().json().catch(() => null)
  if (response.ok && answer !== null) return answer
  throw await refusal(route, response)
}

/**
 * @param {string} route
 * @param {object} [body]
 * @param {string} method
 * @returns {Promise<Response>}
 */
function send(route, body, method = 'POST') {
  // No other site's page can send this header, so the server knows whose request it is.
  const headers = { 'Comfy-Remote-Page': '1' }
  return api.fetchApi(
    route,
    body
      ? {
          method,
          headers: { ...headers, 'Content-Type': 'application/json' },
          body: JSON.stringify(body)
        }
      : { headers }
  )
}

/**
 * @param {string} route
 * @param {Response} response
 * @returns {Promise<RemoteError>} Why the server did not do it.
 */
async function refusal(route, response) {
  const answer = await response.json().catch(() => null)
  const error = answer?.error
  if (typeof error?.message === 'string') {
    const cap = error.code === 'spending_cap' ? error.details : null
    const target = error.details?.lacking
    const lacking = target ? { target, nodes: Object.keys(error.details.node_errors ?? {}) } : null
    return new RemoteError(error.message, error.advice, answer.confirm, error.hint, cap, lacking)
  }
  if (response.status === 404 || response.status === 405) {
    return new ServerPartMissing(t('serverPartMissing'), t('serverPartMissingHelp'))
  }
  const unexpected = t('unexpectedAnswer', { status: response.status, route: route.split('?')[0] })
  return new RemoteError(unexpected, t('seeLog'))
}
