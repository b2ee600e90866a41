// @ts-check
/** The batch that a sheet shows: its runs, also those that have not run yet. */

import { posix, powershell } from './quoting.js'
import { shortNames, valueText } from './words.js'

/** @import { Json } from './words.js' */

/**
 * @typedef {object} Output
 * @property {string} file
 * @property {string | null} node
 * @property {string} kind
 * @property {number | null} [size]
 * @property {boolean} [opens]  Whether its link may be opened.
 * @property {string} [thumbnail]
 * @property {number} [width]
 * @property {number} [height]
 * @property {string} [why]  Why it has no thumbnail.
 * @property {string} [text]
 */

/**
 * @typedef {object} Run
 * @property {number} row
 * @property {string} run
 * @property {string} state
 * @property {number} attempt
 * @property {number[]} at  For each axis, the index of its value; -1 for none.
 * @property {Record<string, Json>} values
 * @property {number | null} seed
 * @property {string} target
 * @property {string | null} job
 * @property {string | null} ended
 * @property {number | null} seconds
 * @property {number | null} cost
 * @property {Output[]} outputs
 * @property {string[]} problems
 * @property {{ code: string, message: string, advice: string | null } | null} error
 */

/** @typedef {{ names: string[], values: Json[][] }} Axis */

/**
 * @typedef {object} Data
 * @property {string} id
 * @property {string} name
 * @property {string} workflow
 * @property {string} target
 * @property {string} created
 * @property {number} count
 * @property {boolean} product
 * @property {Axis[]} axes
 * @property {{ rows: number | null, columns: number | null }} view
 * @property {Run[]} runs
 * @property {Record<string, { inputs?: Record<string, Json> }>} prompt
 * @property {Record<string, [string, string][]>} sets
 * @property {string[]} command
 * @property {Record<string, string>} titles
 * @property {{ keep: number[], reject: number[] }} keeps
 * @property {string[]} notes
 * @property {boolean} served
 * @property {boolean} in_comfyui  Whether ComfyUI's page is open in another tab.
 */

const MOST_MISSING = 100_000

/** Options of `comfy-remote run` that have a name of their own. */
const OPTIONS = new Set(['prompt', 'negative', 'seed', 'width', 'height', 'batch'])

export class Batch {
  /** @param {Data} data */
  constructor(data) {
    this.data = data
    this.axes = data.axes
    this.short = shortNames(data.axes.flatMap((axis) => axis.names))
    /** All rows that are known, in order. @type {Run[]} */
    this.runs = withMissing(data)
    /** How many have not run, and nothing is known of them. */
    this.unknown = Math.max(0, data.count - this.runs.length)
    /** @type {Map<number, Run>} */
    this.byRow = new Map(this.runs.map((run) => [run.row, run]))
    /** The nodes that have made outputs, in the order of the prompt. @type {string[]} */
    this.nodes = nodesOf(data)
  }

  /** What an axis is called. @param {number} axis */
  axisName(axis) {
    return this.axes[axis].names.map((name) => this.short.get(name) ?? name).join(', ')
  }

  /**
   * @param {number} axis
   * @param {number} index
   */
  axisValue(axis, index) {
    const values = this.axes[axis].values[index]
    return values === undefined ? '–' : values.map(valueText).join(' · ')
  }

  /** The axes with more than one value. */
  get varying() {
    return this.axes.map((_, axis) => axis).filter((axis) => this.axes[axis].values.length > 1)
  }

  /**
   * What tells a run from the others: `seed 7 · cfg 5`.
   * @param {Run} run
   * @param {number[]} [axes]
   */
  about(run, axes = this.varying) {
    const said = axes.map((axis) => `${this.axisName(axis)} ${this.axisValue(axis, run.at[axis])}`)
    return said.join(' · ') || `run ${run.row + 1}`
  }

  /**
   * The words that run this row alone.
   * @param {Run} run
   */
  command(run) {
    const words = [...this.data.command]
    const named = Object.entries(run.values)
    if (run.seed !== null && !named.some(([name]) => /(^|\.)(noise_)?seed$/.test(name))) {
      named.push(['seed', run.seed])
    }
    for (const [name, value] of named) {
      const text = typeof value === 'string' ? value : JSON.stringify(value)
      if (OPTIONS.has(name)) words.push(...(text.startsWith('-') ? [`--${name}=${text}`] : [`--${name}`, text]))
      else if (name.includes('.')) words.push('--set', `${name}=${text}`)
      else for (const place of this.#places(name)) words.push('--set', `${place.join('.')}=${text}`)
    }
    return words
  }

  /** The inputs that a name sets. @param {string} name */
  #places(name) {
    return Object.hasOwn(this.data.sets, name) ? this.data.sets[name] : []
  }

  /** @param {Run} run */
  commandLines(run) {
    const words = this.command(run)
    return { posix: posix(words), powershell: powershell(words), words }
  }

  /** The workflow in API format with a run's values. @param {Run} run */
  workflow(run) {
    const prompt = structuredClone(this.data.prompt)
    const values = new Map(Object.entries(run.values))
    if (run.seed !== null && !values.has('seed')) values.set('seed', run.seed)
    for (const [name, value] of values) {
      for (const [node, input] of this.#places(name)) {
        if (!Object.hasOwn(prompt, node) || typeof prompt[node] !== 'object' || prompt[node] === null) continue
        const inputs = (prompt[node].inputs ??= {})
        Object.defineProperty(inputs, input, { value, enumerable: true, writable: true, configurable: true })
      }
    }
    return prompt
  }
}

/** @param {Data} data */
function withMissing(data) {
  const there = new Map(data.runs.map((run) => [run.row, run]))
  if (!data.product || data.count > MOST_MISSING) return [...data.runs]
  const sizes = data.axes.map((axis) => axis.values.length)
  return Array.from({ length: data.count }, (_, row) => there.get(row) ?? missing(data, sizes, row))
}

/**
 * @param {Data} data
 * @param {number[]} sizes
 * @param {number} row
 * @returns {Run}
 */
function missing(data, sizes, row) {
  const at = new Array(sizes.length).fill(0)
  let rest = row
  for (let axis = sizes.length - 1; axis >= 0; axis--) {
    at[axis] = rest % sizes[axis]
    rest = Math.floor(rest / sizes[axis])
  }
  /** @type {[string, Json][]} */
  const values = data.axes.flatMap((axis, number) =>
    axis.names.map((name, index) => /** @type {[string, Json]} */ ([name, axis.values[at[number]][index]]))
  )
  return {
    row, at, values: Object.fromEntries(values), run: '', state: 'missing', attempt: 0, seed: null,
    target: data.target, job: null, ended: null, seconds: null, cost: null, outputs: [], problems: [], error: null
  }
}

/** @param {Data} data */
function nodesOf(data) {
  /** @type {Set<string>} */
  const there = new Set()
  for (const run of data.runs) for (const output of run.outputs) there.add(output.node ?? '')
  const order = Object.keys(data.prompt)
  const rank = (/** @type {string} */ node) => (order.indexOf(node) + order.length + 1) % (order.length + 1)
  return [...there].sort((one, other) => rank(one) - rank(other))
}
