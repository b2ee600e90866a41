// @ts-check
/** Which run stands where: a table of two axes with the others nested, or a plain grid. */

/** @import { Batch, Run } from './batch.js' */
/** @import { Keeps } from './keeps.js' */

/**
 * @typedef {object} Choices
 * @property {number | null} rows  An axis; null with no columns either is a plain grid.
 * @property {number | null} columns
 * @property {Map<number, number>} only  For other axes, the one value that is shown.
 * @property {string} show  A state, `keep`, `reject`, `undecided`, or `all`.
 * @property {string} words  What a run's values or errors contain.
 * @property {string} sort  `row`, `seconds`, `cost`, `state`, or `axis:N`.
 * @property {boolean} down  Whether the largest comes first.
 */

/** @typedef {{ text: string, note: string, first: boolean, cells: (Run | null)[] }} Line */

/**
 * @typedef {object} Arrangement
 * @property {boolean} table
 * @property {string[]} columns  Their labels.
 * @property {Line[]} lines  Of a table.
 * @property {Run[]} runs  All that is shown, in order.
 */

/**
 * @param {Batch} batch
 * @param {Choices} choices
 * @param {Keeps} keeps
 * @returns {Arrangement}
 */
export function arrange(batch, choices, keeps) {
  const matched = batch.runs.filter((run) => matches(batch, run, choices, keeps))
  const { rows, columns } = choices
  if (rows === null && columns === null) {
    return { table: false, columns: [], lines: [], runs: sorted(batch, matched, choices) }
  }
  return table(batch, matched, rows, columns, choices)
}

/** @param {Run} run @param {Keeps} keeps */
function decision(run, keeps) {
  return run.state === 'missing' ? 'missing' : (keeps.of(run.row) ?? 'undecided')
}

/**
 * How many runs each filter shows.
 * @param {Batch} batch
 * @param {Keeps} keeps
 */
export function counts(batch, keeps) {
  /** @type {Map<string, number>} */
  const found = new Map([['all', batch.runs.length]])
  const add = (/** @type {string} */ name) => found.set(name, (found.get(name) ?? 0) + 1)
  for (const run of batch.runs) {
    add(`is:${run.state}`)
    add(decision(run, keeps))
  }
  return found
}

/**
 * @param {Batch} batch
 * @param {Run} run
 * @param {Choices} choices
 * @param {Keeps} keeps
 */
function matches(batch, run, choices, keeps) {
  const { show } = choices
  if (show.startsWith('is:') ? show !== `is:${run.state}` : show !== 'all' && show !== decision(run, keeps)) {
    return false
  }
  for (const [axis, index] of choices.only) if (run.at[axis] !== index) return false
  const words = choices.words.trim().toLowerCase()
  if (!words) return true
  const text = [...Object.entries(run.values).flat(), run.run, run.error?.message ?? '', run.error?.code ?? '', ...run.problems]
  return text.some((one) => String(typeof one === 'object' ? JSON.stringify(one) : one).toLowerCase().includes(words))
}

/**
 * @param {Batch} batch
 * @param {Run[]} runs
 * @param {Choices} choices
 */
function sorted(batch, runs, choices) {
  const { sort, down } = choices
  const axis = sort.startsWith('axis:') ? Number(sort.slice(5)) : -1
  /** @param {Run} run @returns {number | string | null} */
  const by = (run) => {
    if (axis >= 0) return axisRank(batch, axis)[run.at[axis]] ?? null
    if (sort === 'seconds' || sort === 'cost' || sort === 'state') return run[sort]
    return run.row
  }
  return runs
    .map((run) => ({ run, by: by(run) }))
    .sort((one, other) => {
      // What has no such amount comes last in both orders.
      if (one.by === null || other.by === null) return Number(one.by === null) - Number(other.by === null) || one.run.row - other.run.row
      const less = one.by < other.by ? -1 : one.by > other.by ? 1 : 0
      return (down ? -less : less) || one.run.row - other.run.row
    })
    .map(({ run }) => run)
}

/** @type {WeakMap<object, number[]>} */
const ranks = new WeakMap()

/**
 * For each value of an axis, its place among them by amount, or by the alphabet.
 * @param {Batch} batch
 * @param {number} axis
 */
function axisRank(batch, axis) {
  const known = ranks.get(batch.axes[axis])
  if (known) return known
  const values = batch.axes[axis].values
  const order = values.map((_, index) => index).sort((one, other) => {
    const [a, b] = [values[one][0], values[other][0]]
    if (typeof a === 'number' && typeof b === 'number') return a - b
    return String(a).localeCompare(String(b), undefined, { numeric: true })
  })
  /** @type {number[]} */
  const rank = []
  order.forEach((index, place) => (rank[index] = place))
  ranks.set(batch.axes[axis], rank)
  return rank
}

/**
 * @param {Batch} batch
 * @param {Run[]} runs
 * @param {number | null} rows
 * @param {number | null} columns
 * @param {Choices} choices
 * @returns {Arrangement}
 */
function table(batch, runs, rows, columns, choices) {
  const others = batch.varying.filter((axis) => axis !== rows && axis !== columns && !choices.only.has(axis))
  const outer = rows === null ? others : [rows, ...others]
  const used = columns === null ? [0] : [...new Set(runs.map((run) => run.at[columns]))].sort((a, b) => a - b)
  const columnOf = new Map(used.map((index, place) => [index, place]))
  /** @type {Map<string, { key: number[], copy: number, cells: (Run | null)[] }>} */
  const lines = new Map()
  for (const run of runs) {
    const key = outer.map((axis) => run.at[axis])
    const column = columns === null ? 0 : /** @type {number} */ (columnOf.get(run.at[columns]))
    // Several runs with the same values (repeats) stand below each other.
    for (let copy = 0; ; copy++) {
      const name = `${key.join()}/${copy}`
      const line = lines.get(name) ?? { key, copy, cells: new Array(used.length).fill(null) }
      lines.set(name, line)
      if (line.cells[column]) continue
      line.cells[column] = run
      break
    }
  }
  const ordered = [...lines.values()].sort((one, other) => {
    const at = one.key.findIndex((index, place) => index !== other.key[place])
    return at < 0 ? one.copy - other.copy : one.key[at] - other.key[at]
  })
  const text = (/** @type {number} */ axis, /** @type {number} */ index) => batch.axisValue(axis, index)
  let before = NaN
  return {
    table: true,
    columns: used.map((index) => (columns === null ? '' : text(columns, index))),
    lines: ordered.map(({ key, copy, cells }) => {
      const first = rows === null || key[0] !== before
      before = key[0]
      const inner = (rows === null ? key : key.slice(1)).map(
        (index, place) => `${batch.axisName(others[place])} ${text(others[place], index)}`
      )
      if (copy) inner.push(`repeat ${copy + 1}`)
      return { text: rows === null ? '' : text(rows, key[0]), note: inner.join('\n'), first, cells }
    }),
    runs: ordered.flatMap(({ cells }) => cells.filter((run) => run !== null))
  }
}
