// @ts-check
/** What is brought to targets: asked of the server for as long as something is on its way. */

import { deleteBrought, getBringing, postStop } from './bring_api.js'
import { showError } from './notices.js'
import { t } from './words.js'

/** @import { Brought } from './bring_api.js' */

const POLL_MS = 1000

/** Dispatches `changed` with each answer, and `ended` with the target's name in `detail`. */
export class BringState extends EventTarget {
  constructor() {
    super()
    /** @type {Brought[]} The oldest first. */
    this.list = []
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.soon = undefined
  }

  /** @param {string} target */
  running(target) {
    return this.list.find((one) => one.target === target && one.state === 'running')
  }

  /** Ask now, and again until nothing is on its way. */
  async refresh() {
    clearTimeout(this.soon)
    const before = this.list
    try {
      this.list = (await getBringing()).bringing
    } catch {
      // The panel says that the server does not answer; what was shown stays.
    }
    for (const one of this.list) {
      const was = before.find(({ id }) => id === one.id)
      if (was?.state === 'running' && one.state !== 'running') {
        this.dispatchEvent(new CustomEvent('ended', { detail: one }))
      }
    }
    this.dispatchEvent(new Event('changed'))
    clearTimeout(this.soon)
    if (this.list.some(({ state }) => state === 'running')) {
      this.soon = setTimeout(() => void this.refresh(), POLL_MS)
    }
  }

  /** @param {string} id */
  async stop(id) {
    await postStop(id).catch((error) => showError(t('bringStop'), error))
    await this.refresh()
  }

  /** @param {string} id */
  async forget(id) {
    await deleteBrought(id).catch((error) => showError(t('forget'), error))
    await this.refresh()
  }
}
