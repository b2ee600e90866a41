// @ts-check
/** What the page asks of its gateway. The token is in memory only. */

const PATIENCE_MS = 15_000

/**
 * @typedef {{
 *   id: string, kind: string, jobs: string[], draining: boolean,
 *   state: 'idle' | 'running' | 'starting' | 'drained' | 'silent' | 'broken',
 *   seconds: number | null, why: string,
 *   engine: string, device: string, version: string,
 *   memory: number | null, labels: string[], warm: string[]
 * }} WorkerView
 *
 * @typedef {{ id: string, client: string, batch: string, attempt: number }} Job
 *
 * @typedef {Job & {
 *   priority: number, worker: string, seconds: number, progress: number | null
 * }} RunningJob
 *
 * @typedef {Job & {
 *   position: number, priority: number, front: boolean, low: boolean, seconds: number, why: string
 * }} WaitingJob
 *
 * @typedef {Job & {
 *   state: 'COMPLETED' | 'FAILED' | 'CANCELLED' | 'TIMED_OUT', code: string, worker: string,
 *   ago: number, seconds: number | null, files: number, size: number
 * }} EndedJob
 *
 * @typedef {{
 *   endpoint: string, version: string,
 *   totals: Record<'waiting' | 'waiting_limit' | 'running' | 'completed' | 'failed' | 'retried' |
 *     'store' | 'store_limit' | 'disk_free' | 'disk_reserve', number>,
 *   workers: WorkerView[], running: RunningJob[], waiting: WaitingJob[], ended: EndedJob[]
 * }} Overview
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
