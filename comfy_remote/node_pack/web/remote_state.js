// @ts-check
/** Whether Remote is on in this tab, its target, and the jobs in progress. */

import { api } from '../../scripts/api.js'
import { getDetails, getStatus, postCancel, postSwitch, wordsOf } from './remote_api.js'

/** @import { Condition, Details, Job, Setup, Target } from './remote_api.js' */

const STORED = 'comfy_remote.target'
const SANDBOX = 'sandbox'
const ENDED = ['succeeded', 'failed', 'cancelled', 'expired']

/**
 * One for each tab. Dispatches `changed` whenever something of it did.
 *
 * The server keys the choice by ComfyUI's client id, which outlives a reload of the tab. The
 * tab stores it, too, and sends it again to a server that was restarted.
 */
export class RemoteState extends EventTarget {
  #updating
  #preset
  #cache

  /**
   * @param {() => string | null} preset  The target that this user has set, if there is one.
   * @param {() => string | null} cache  Whether this user's jobs use stored results; null: what is configured.
   */
  constructor(preset, cache) {
    super()
    this.#preset = preset
    this.#cache = cache
    /** @type {string | null} Where this tab's prompts go; null: they run here. */
    this.target = sessionStorage.getItem(STORED)
    /** @type {Target[]} */
    this.targets = []
    /** @type {Job[]} Those that have not ended, the newest first. */
    this.jobs = []
    /** @type {string[]} A sentence for each file that is not used because it is not trusted. */
    this.unused = []
    /** @type {Setup | null} What can be set up here; null until the server has said it. */
    this.setup = null
    /** @type {Set<string>} Prompt ids of jobs that are being cancelled. */
    this.cancelling = new Set()
    /** @type {string | null} Why the switch's target cannot run anything now; null: not known. */
    this.trouble = null
    /** @type {Details | null} What the switch's target said last; null: nothing, or no answer. */
    this.details = null
    /** Whether jobs ask for the models of a node titled `repo_list`; true again after one run. */
    this.repoList = true
    /** While the server has not confirmed a choice. */
    this.switching = false
    this.#updating = false
    /** @type {Promise<string>} */
    this.clientKnown = new Promise((resolve) => {
      const look = () => {
        if (!api.clientId) return
        api.removeEventListener('status', look)
        resolve(api.clientId)
      }
      // The server tells each new socket its id, in its first status message.
      api.addEventListener('status', look)
      look()
    })
  }

  /** While the page's lists do not yet show what the target has. */
  get updating() {
    return this.#updating
  }

  set updating(value) {
    this.#updating = value
    this.#changed()
  }

  /** @returns {Condition | null} Of the switch's target, while it is on; null: not known. */
  get condition() {
    if (this.target === null) return null
    return this.trouble === null ? (this.details?.state ?? null) : 'unusable'
  }

  /** @returns {string | null} Where the switch switches to. */
  usual() {
    return this.target ?? this.#usual() ?? this.#fallback()
  }

  /** @returns {string | null} What is usual in this page; null: what the server says. */
  #usual() {
    return this.#preset() ?? this.#only()
  }

  /** @returns {string | null} The one target besides the sandbox, where no default is configured. */
  #only() {
    if (!this.setup || this.setup.default) return null
    const others = this.targets.filter((one) => one.type !== SANDBOX)
    return others.length === 1 ? others[0].name : null
  }

  /** @returns {string | null} null: there are several, and somebody has to choose. */
  #fallback() {
    const chosen = this.targets.find((target) => target.default)
    const several = this.setup?.default === false && this.targets.some((one) => one.type !== SANDBOX)
    return several ? null : (chosen?.name ?? null)
  }

  /** @returns {boolean} Whether there is no target but the sandbox, which has no models. */
  get empty() {
    const chosen = this.target ?? this.#preset()
    return this.setup !== null && !chosen && this.targets.every((one) => one.type === SANDBOX)
  }

  /** Fetch targets, jobs and the switch from the server. */
  async refresh() {
    const status = await getStatus(api.clientId)
    this.targets = status.targets
    this.jobs = [...status.jobs].reverse()
    this.unused = status.unused
    this.setup = status.setup
    this.#changed()
    return status
  }

  /** After a start of the page or the server: send the server this tab's choice. */
  async agree() {
    await this.clientKnown
    const status = await this.refresh()
    if (this.target === null && status.target !== null) {
      // Chosen by a script for this client.
      this.#keep(status.target)
    } else if (this.target !== status.target || this.#usual() !== null || this.#cache() !== null) {
      await this.#post(this.target)
    }
  }

  /**
   * Send this tab's prompts to a target from now on, or run them here.
   *
   * @param {string | null} target
   * @throws {import('./remote_api.js').RemoteError} The server refused; nothing has changed.
   */
  async switchTo(target) {
    this.switching = true
    this.#changed()
    try {
      const answer = await this.#post(target)
      this.#keep(answer.target)
    } finally {
      this.switching = false
      this.#changed()
    }
  }

  /**
   * Have the next run ask for the models of `repo_list`, or not.
   *
   * @param {boolean} wanted
   * @throws {import('./remote_api.js').RemoteError} The server refused.
   */
  async askForModels(wanted) {
    if (wanted === this.repoList) return
    this.repoList = wanted
    this.#changed()
    await this.#post(this.target)
  }

  /** Tell the server what this user's settings say now. */
  async sendSettings() {
    await this.#post(this.target)
  }

  /** @param {string | null} target */
  async #post(target) {
    return postSwitch(await this.clientKnown, target, this.#usual(), this.repoList, this.#cache())
  }

  /** Ask the switch's target whether it answers. */
  async askTarget() {
    const { target } = this
    if (target === null) return
    try {
      this.answered(target, await getDetails(target))
    } catch (error) {
      this.answered(target, error)
    }
  }

  /**
   * @param {string} target
   * @param {unknown} answer  What it said of itself, or an error.
   */
  answered(target, answer) {
    if (target !== this.target) return
    const failure = answer instanceof Error ? answer : /** @type {Details} */ (answer).error
    this.details = answer instanceof Error ? null : /** @type {Details} */ (answer)
    this.trouble = failure ? wordsOf(failure) : null
    this.#changed()
  }

  /**
   * Stop a job, on the GPU too.
   *
   * @param {string} promptId
   * @throws {import('./remote_api.js').RemoteError} It was not stopped, or has ended already.
   */
  async cancel(promptId) {
    this.cancelling.add(promptId)
    this.#changed()
    try {
      await postCancel(promptId)
    } catch (error) {
      this.cancelling.delete(promptId)
      throw error
    } finally {
      await this.refresh()
    }
  }

  /**
   * Update a job by the server's message.
   *
   * @param {Job} job
   */
  update(job) {
    const others = this.jobs.filter((known) => known.prompt_id !== job.prompt_id)
    const known = this.jobs.find((known) => known.prompt_id === job.prompt_id)
    if (ENDED.includes(job.state)) {
      this.jobs = others
      this.cancelling.delete(job.prompt_id)
    } else if (known) this.jobs = this.jobs.map((each) => (each === known ? { ...each, ...job } : each))
    else this.jobs = [{ client_id: api.clientId, ...job }, ...others]
    if (job.target === this.target && job.state !== 'queued' && job.state !== 'failed') {
      this.trouble = null // it works
      if (this.details) this.details = { ...this.details, state: 'ready' }
    }
    this.#changed()
  }

  /**
   * @param {string | null} name
   * @returns {Target | undefined}
   */
  find(name) {
    return this.targets.find((target) => target.name === name || target.address === name)
  }

  /** @param {string | null} target */
  #keep(target) {
    if (target !== this.target) {
      this.trouble = null
      this.details = null
    }
    this.target = target
    if (target === null) sessionStorage.removeItem(STORED)
    else sessionStorage.setItem(STORED, target)
    this.#changed()
  }

  #changed() {
    this.dispatchEvent(new Event('changed'))
  }
}
