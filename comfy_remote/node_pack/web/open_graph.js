// @ts-check
/** The graph that is open in the tab: what the page would send of it, and when it has changed. */

import { api } from '../../scripts/api.js'
import { app } from '../../scripts/app.js'

/** @typedef {Awaited<ReturnType<typeof app.graphToPrompt>>} Prompt */

/** Dispatches `changed` after the page has noted a change, or has opened another workflow. */
export class OpenGraph extends EventTarget {
  /** @type {Promise<Prompt> | null} */
  #prompt = null

  constructor() {
    super()
    api.addEventListener(/** @type {any} */ ('graphChanged'), () => this.changed())
  }

  /** Another workflow was opened, or the page noted a change. */
  changed() {
    this.forget()
    this.dispatchEvent(new Event('changed'))
  }

  /**
   * What the page would send. It is made once for each change: on a large graph, that takes long.
   *
   * @returns {Promise<Prompt>}
   */
  prompt() {
    const asked = (this.#prompt ??= app.graphToPrompt())
    asked.catch(() => {
      if (this.#prompt === asked) this.#prompt = null
    })
    return asked
  }

  /** Make it again the next time. Before a start, for changes that the page does not note. */
  forget() {
    this.#prompt = null
  }
}
