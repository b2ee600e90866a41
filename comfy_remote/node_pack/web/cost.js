// @ts-check
/** What a click on Run would cost on the switch's target: asked when the graph has changed. */

import { getEstimate } from './remote_api.js'

/** @import { OpenGraph } from './open_graph.js' */
/** @import { Estimate } from './remote_api.js' */
/** @import { RemoteState } from './remote_state.js' */

// Nothing is read of the graph while somebody types or drags.
const QUIET_MS = 700
const IDLE_MS = 2000
const COUNT_MS = 1000
// ComfyUI's own field for how often Run runs; no interface for extensions tells the number.
const BATCH_COUNT = '.batch-count'

/** Dispatches `changed` whenever `estimate` or `runs` did. */
export class Cost extends EventTarget {
  /** @type {Estimate | null} Of one run; null: Remote is off, or nothing is known of the graph. */
  estimate = null
  /** How often Run would run it. */
  runs = 1

  #state
  #graph
  /** What it was asked for: target and prompt. @type {string | null} */
  #target
  #stale = true
  #asked = 0
  #jobs = 0
  #typedAt = 0
  #pressed = false
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #soon

  /**
   * @param {RemoteState} state
   * @param {OpenGraph} graph
   */
  constructor(state, graph) {
    super()
    this.#state = state
    this.#graph = graph
    this.#target = state.target
    graph.addEventListener('changed', () => this.#askSoon())
    state.addEventListener('changed', () => this.#stateChanged())
    document.addEventListener('visibilitychange', () => this.#stale && this.#askSoon())
    const listen = { capture: true, passive: true }
    const typed = () => {
      this.#typedAt = performance.now()
    }
    for (const event of ['keydown', 'wheel']) window.addEventListener(event, typed, listen)
    // A release outside of the window tells nobody; the next move without a button does.
    for (const event of ['pointerdown', 'pointerup', 'pointercancel', 'pointermove']) {
      window.addEventListener(
        event,
        (/** @type {any} */ { buttons }) => {
          this.#pressed = buttons > 0
        },
        listen
      )
    }
    setInterval(() => this.#count(), COUNT_MS)
    this.#askSoon()
  }

  #stateChanged() {
    const { target, jobs } = this.#state
    const ended = jobs.length < this.#jobs // what it took is known now
    this.#jobs = jobs.length
    if (target !== this.#target) {
      this.#target = target
      this.#set(null)
      this.#askSoon(0)
    } else if (ended) this.#askSoon()
  }

  /** @param {number} delay */
  #askSoon(delay = QUIET_MS) {
    this.#stale = true
    if (this.#target === null) return
    clearTimeout(this.#soon)
    this.#soon = setTimeout(() => this.#askWhenQuiet(), delay)
  }

  #askWhenQuiet() {
    if (document.hidden) return
    const ask = () => (this.#isBusy() ? this.#askSoon() : void this.#ask())
    // Safari has no such callback.
    if (this.#isBusy() || !window.requestIdleCallback) ask()
    else requestIdleCallback(ask, { timeout: IDLE_MS })
  }

  #isBusy() {
    return this.#pressed || (this.#typedAt > 0 && performance.now() - this.#typedAt < QUIET_MS)
  }

  async #ask() {
    const turn = ++this.#asked
    const target = this.#target
    if (target === null) return
    this.#stale = false
    /** @type {Estimate | null} */
    let found = null
    try {
      const { output } = await this.#graph.prompt()
      if (Object.keys(output).length > 0) found = await getEstimate(target, output)
    } catch {
      // A graph that cannot be run has no cost; what is wrong with it, Run says.
    }
    if (turn === this.#asked && target === this.#target) this.#set(found)
  }

  #count() {
    if (this.#target === null || document.hidden) return
    const field = document.querySelector(BATCH_COUNT)?.querySelector('input')
    const runs = field ? Number.parseInt(field.value, 10) : 1
    if (runs === this.runs || !(runs >= 1)) return
    this.runs = runs
    this.dispatchEvent(new Event('changed'))
  }

  /** @param {Estimate | null} estimate */
  #set(estimate) {
    this.estimate = estimate
    this.dispatchEvent(new Event('changed'))
  }
}
