// @ts-check
/** What the page asks of its gateway. The token is in memory only. */

const PATIENCE_MS = 15_000

/**
 * @typedef {object} WorkerView
 * @property {string} id
 * @property {string} kind
 * @property {'idle' | 'running' | 'starting' | 'drained' | 'silent' | 'broken'} state
 * @property {number | null} seconds
 * @property {string} why
 * @property {boolean} draining
 * @property {string[]} jobs
 * @property {string} engine
 * @property {string} device
 * @property {string} version
 * @property {number | null} memory
 * @property {string[]} labels
 * @property {string[]} warm
 */

/**
 * @typedef {object} RunningJob
 * @property {string} id
 * @property {string} client
 * @property {string} batch
 * @property {number} priority
 * @property {number} attempt
 * @property {string} worker
 * @property {number} seconds
 * @property {number | null} progress
 */

/**
 * @typedef {object} WaitingJob
 * @property {string} id
 * @property {number} position
 * @property {string} client
 * @property {string} batch
 * @property {number} priority
 * @property {boolean} front
 * @property {boolean} low
 * @property {number} attempt
 * @property {number} seconds
 * @property {string} why
 */

/**
 * @typedef {object} EndedJob
 * @property {string} id
 * @property {'COMPLETED' | 'FAILED' | 'CANCELLED' | 'TIMED_OUT'} state
 * @property {string} code
 * @property {string} client
 * @property {string} batch
 * @property {string} worker
 * @property {number} attempt
 * @property {number} ago
 * @property {number | null} seconds
 * @property {number} files
 * @property {number} size
 */

/**
 * @typedef {object} Overview
 * @property {string} endpoint
 * @property {string} version
 * @property {Record<'waiting' | 'waiting_limit' | 'running' | 'completed' | 'failed' | 'retried' |
 *   'store' | 'store_limit' | 'disk_free' | 'disk_reserve', number>} totals
 * @property {WorkerView[]} workers
 * @property {RunningJob[]} running
 * @property {WaitingJob[]} waiting
 * @property {EndedJob[]} ended
 */

/** An answer that is an error, in the gateway's words. */
export class Refused extends Error {
  /**
   * @param {number} status
   * @param {string} words
   */
  constructor(status, words) {
    super(words)
    this.status = status
  }
}

export class Gateway {
  token = ''
  #endpoint = ''

  /** @returns {Promise<Overview>} */
  async overview() {
    /** @type {Overview} */
    const seen = await this.#ask('GET', 'overview')
    this.#endpoint = seen.endpoint
    return seen
  }

  /**
   * @param {'cancel' | 'front' | 'drain' | 'undrain' | 'gone' | 'purge-queue'} what
   * @param {string} [which]  The id of a job or a worker.
   */
  async act(what, which) {
    const parts = ['v2', this.#endpoint, what, ...(which === undefined ? [] : [which])]
    await this.#ask('POST', parts.map(encodeURIComponent).join('/'))
  }

  /**
   * @param {string} method
   * @param {string} path  Below this page's own address.
   */
  async #ask(method, path) {
    const answer = await fetch(new URL(path, document.baseURI), {
      method,
      headers: this.token ? { Authorization: `Bearer ${this.token}` } : {},
      cache: 'no-store',
      credentials: 'omit',
      redirect: 'error',
      signal: AbortSignal.timeout(PATIENCE_MS)
    })
    const said = await answer.json().catch(() => ({}))
    if (!answer.ok) throw new Refused(answer.status, said.error ?? `HTTP ${answer.status}`)
    return said
  }
}
