// @ts-check
/** What was kept and rejected: in the browser, or in the folder where the sheet is served. */

/** @typedef {'keep' | 'reject'} Decision */
/** @typedef {{ keep: number[], reject: number[] }} Listed */

export class Keeps {
  /** @type {Map<number, Decision>} */
  #decided
  /** What the folder had when this page was made. @type {Map<number, Decision>} */
  #folder
  #key
  #served
  #saving = false
  #again = false

  /**
   * @param {string} id  Of the batch.
   * @param {Listed} folder
   * @param {boolean} served
   * @param {(said: string, bad: boolean) => void} say
   */
  constructor(id, folder, served, say) {
    this.#key = `comfy-remote-sheet:${id || location.pathname}`
    this.#folder = mapOf(folder)
    this.#served = served
    this.say = say
    this.#decided = served ? new Map(this.#folder) : merged(stored(this.#key), this.#folder)
  }

  /** @param {number} row */
  of(row) {
    return this.#decided.get(row)
  }

  /**
   * Decide, or take it back where it was decided so.
   * @param {number} row
   * @param {Decision} decision
   */
  toggle(row, decision) {
    if (this.#decided.get(row) === decision) this.#decided.delete(row)
    else this.#decided.set(row, decision)
    this.#save()
    return this.#decided.get(row)
  }

  /** @returns {{ version: 1 } & Listed} */
  toJSON() {
    return { version: 1, ...listed(this.#decided) }
  }

  #save() {
    if (this.#served) {
      void this.#send()
      return
    }
    try {
      const now = { decided: listed(this.#decided), folder: listed(this.#folder) }
      localStorage.setItem(this.#key, JSON.stringify(now))
    } catch {
      this.say('This browser stores nothing here: export keeps.json before you close the page.', true)
    }
  }

  async #send() {
    if (this.#saving) {
      this.#again = true
      return
    }
    this.#saving = true
    try {
      do {
        this.#again = false
        const answer = await fetch('keeps.json', {
          method: 'PUT',
          headers: { 'Content-Type': 'application/json' },
          body: JSON.stringify(this)
        })
        if (!answer.ok) throw new Error(await answer.text())
      } while (this.#again)
      this.say('Saved to keeps.json', false)
    } catch (error) {
      this.say(`Not saved: ${error instanceof TypeError ? 'the server does not answer' : error}`, true)
    } finally {
      this.#saving = false
    }
  }
}

/** @param {Listed} listed @returns {Map<number, Decision>} */
function mapOf(listed) {
  return new Map([
    ...listed.keep.map((row) => /** @type {[number, Decision]} */ ([row, 'keep'])),
    ...listed.reject.map((row) => /** @type {[number, Decision]} */ ([row, 'reject']))
  ])
}

/** @param {Map<number, Decision>} decided @returns {Listed} */
function listed(decided) {
  const rows = (/** @type {Decision} */ what) =>
    [...decided].filter(([, one]) => one === what).map(([row]) => row).sort((a, b) => a - b)
  return { keep: rows('keep'), reject: rows('reject') }
}

/** @param {string} key @returns {{ decided: Listed, folder: Listed } | null} */
function stored(key) {
  try {
    const read = JSON.parse(localStorage.getItem(key) ?? 'null')
    const good = (/** @type {any} */ one) => [one?.keep, one?.reject].every((rows) => Array.isArray(rows) && rows.every(Number.isInteger))
    return good(read?.decided) && good(read?.folder) ? read : null
  } catch {
    return null
  }
}

/**
 * What was decided here counts; what has changed in the folder since, too.
 * @param {{ decided: Listed, folder: Listed } | null} here
 * @param {Map<number, Decision>} folder
 */
function merged(here, folder) {
  if (here === null) return new Map(folder)
  const [decided, before] = [mapOf(here.decided), mapOf(here.folder)]
  for (const row of new Set([...before.keys(), ...folder.keys()])) {
    if (before.get(row) === folder.get(row)) continue
    const now = folder.get(row)
    if (now === undefined) decided.delete(row)
    else decided.set(row, now)
  }
  return decided
}
