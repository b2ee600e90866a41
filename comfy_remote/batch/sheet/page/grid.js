// @ts-check
/** The pictures, in a table or a plain grid; only what can be seen is in the document. */

import { baseName, beside, shownOutput, small } from './files.js'
import { dollars, duration, element, stateText } from './words.js'

/** @import { Arrangement } from './arrange.js' */
/** @import { Batch, Output, Run } from './batch.js' */
/** @import { Decision, Keeps } from './keeps.js' */

const GAP = 10
const CAPTION = 58
const AROUND = 400 // pixels above and below what is seen
const SYMBOLS = { audio: '♪', '3d': '⬢', text: '¶', file: '▤', video: '▶', image: '▣' }

/**
 * @typedef {object} Actions
 * @property {(run: Run) => void} open
 * @property {(run: Run, decision: Decision) => void} decide
 * @property {(run: Run) => void} compare
 * @property {(run: Run) => void} use
 */

export class Grid {
  /** @type {Arrangement} */
  #shown = { table: false, columns: [], lines: [], runs: [] }
  #box
  #canvas = element('div', 'canvas')
  #head = element('div', 'head')
  /** @type {Map<string, HTMLElement>} */
  #lines = new Map()
  #perLine = 1
  #size = 200
  #aspect = 1
  #label = 0
  #at = { line: 0, column: 0 }
  #drawing = 0
  /** @type {string | null} */
  node = null
  /** The run that is picked for a comparison. @type {Run | null} */
  picked = null

  /**
   * @param {HTMLElement} box  That scrolls.
   * @param {Batch} batch
   * @param {Keeps} keeps
   * @param {Actions} actions
   */
  constructor(box, batch, keeps, actions) {
    this.#box = box
    this.batch = batch
    this.keeps = keeps
    this.actions = actions
    this.#canvas.role = 'presentation'
    this.#head.role = 'row'
    this.#canvas.append(this.#head)
    box.append(this.#canvas)
    box.addEventListener('scroll', () => this.#soon(), { passive: true })
    new ResizeObserver(() => this.show()).observe(box)
    box.addEventListener('click', (event) => this.#clicked(event))
    box.addEventListener('keydown', (event) => this.#key(event))
  }

  /** The run that has the focus. @returns {Run | null} */
  get current() {
    return this.#runAt(this.#at.line, this.#at.column)
  }

  /**
   * @param {Arrangement} [arrangement]
   * @param {{ size?: number, aspect?: number }} [look]
   */
  show(arrangement, look = {}) {
    const before = arrangement ? this.current : null
    if (arrangement) this.#shown = arrangement
    this.#size = look.size ?? this.#size
    this.#aspect = look.aspect ?? this.#aspect
    const width = this.#box.clientWidth
    const { table, lines, runs, columns } = this.#shown
    this.#label = table && (lines.length > 1 || lines[0]?.text || lines[0]?.note) ? Math.min(180, Math.max(84, width * 0.16)) : 0
    if (!table) {
      // The pictures take the whole width.
      this.#perLine = Math.max(1, Math.floor((width - GAP) / (this.#size + GAP)))
    }
    const across = table ? this.#label + GAP + columns.length * this.#across : width
    const count = this.#count
    this.#head.hidden = !table || !columns.some((text) => text)
    this.#canvas.style.width = `${Math.max(across, 0)}px`
    this.#canvas.style.height = `${this.#top(count)}px`
    this.#box.setAttribute('aria-rowcount', String(count + (this.#head.hidden ? 0 : 1)))
    this.#box.setAttribute('aria-colcount', String((table ? columns.length : this.#perLine) + (this.#label ? 1 : 0)))
    for (const line of this.#lines.values()) line.remove()
    this.#lines.clear()
    if (before) this.focusRun(before, false)
    if (!this.current && runs.length) this.focusRun(runs[0], false)
    this.#draw()
  }

  /** Draw again what a decision has changed. @param {Run} run */
  update(run) {
    for (const cell of this.#canvas.querySelectorAll(`[data-row="${run.row}"]`)) {
      const column = Number(/** @type {HTMLElement} */ (cell).dataset.column)
      const line = Number(/** @type {HTMLElement} */ (cell).dataset.line)
      cell.replaceWith(this.#cell(run, line, column))
    }
    this.#mark()
  }

  /**
   * @param {Run} run
   * @param {boolean} [scroll]
   */
  focusRun(run, scroll = true) {
    const { table, lines, runs } = this.#shown
    if (table) {
      for (let line = 0; line < lines.length; line++) {
        const column = lines[line].cells.findIndex((one) => one?.row === run.row)
        if (column >= 0) return this.#go(line, column, scroll)
      }
      return
    }
    const place = runs.findIndex((one) => one.row === run.row)
    if (place >= 0) this.#go(Math.floor(place / this.#perLine), place % this.#perLine, scroll)
  }

  /**
   * The next run in a direction; null at an edge.
   * @param {number} down
   * @param {number} right
   */
  step(down, right) {
    const found = this.#next(down, right)
    if (found) this.#go(found.line, found.column, true)
    return found && this.current
  }

  // -- Geometry ---------------------------------------------------------------------------------

  get #across() {
    if (this.#shown.table) return this.#size + GAP
    return (this.#box.clientWidth - GAP) / this.#perLine
  }

  get #width() {
    return this.#across - GAP
  }

  get #picture() {
    return Math.round(this.#width / this.#aspect)
  }

  get #high() {
    return this.#picture + GAP + (this.#shown.table ? 0 : CAPTION)
  }

  get #headHigh() {
    return this.#head.hidden ? GAP : 40
  }

  get #count() {
    const { table, lines, runs } = this.#shown
    return table ? lines.length : Math.ceil(runs.length / this.#perLine)
  }

  /** @param {number} line */
  #top(line) {
    return this.#headHigh + line * this.#high
  }

  /** @param {number} column */
  #left(column) {
    return (this.#label ? this.#label + GAP : GAP) + column * this.#across
  }

  /** @param {number} line @param {number} column */
  #runAt(line, column) {
    const { table, lines, runs } = this.#shown
    if (table) return lines[line]?.cells[column] ?? null
    return column < this.#perLine ? (runs[line * this.#perLine + column] ?? null) : null
  }

  // -- Drawing ----------------------------------------------------------------------------------

  #soon() {
    this.#drawing ||= requestAnimationFrame(() => this.#draw())
  }

  #draw() {
    cancelAnimationFrame(this.#drawing)
    this.#drawing = 0
    const { scrollTop, scrollLeft, clientHeight, clientWidth } = this.#box
    const from = Math.max(0, Math.floor((scrollTop - AROUND - this.#headHigh) / this.#high))
    const to = Math.min(this.#count - 1, Math.floor((scrollTop + clientHeight + AROUND - this.#headHigh) / this.#high))
    const columns = this.#shown.table ? this.#shown.columns.length : this.#perLine
    const left = Math.max(0, Math.floor((scrollLeft - AROUND - this.#label) / this.#across))
    const right = Math.min(columns - 1, Math.floor((scrollLeft + clientWidth + AROUND) / this.#across))
    const wanted = new Map()
    for (let line = from; line <= to; line++) wanted.set(`${line}/${left}/${right}`, line)
    for (const [key, drawn] of this.#lines) {
      if (wanted.has(key)) continue
      drawn.remove()
      this.#lines.delete(key)
    }
    for (const [key, line] of wanted) {
      if (this.#lines.has(key)) continue
      const drawn = this.#line(line, left, right)
      this.#lines.set(key, drawn)
      this.#canvas.append(drawn)
    }
    const heads = []
    if (!this.#head.hidden) {
      const corner = element('div', 'corner')
      corner.role = 'columnheader'
      corner.style.width = `${this.#label}px`
      if (this.#label) heads.push(corner)
      for (let column = left; column <= right; column++) {
        const text = this.#shown.columns[column]
        const head = element('div', 'columnhead', element('bdi', '', text))
        head.role = 'columnheader'
        head.title = text
        head.style.left = `${this.#left(column)}px`
        head.style.width = `${this.#width}px`
        heads.push(head)
      }
    }
    this.#head.replaceChildren(...heads)
    this.#mark()
  }

  /** @param {number} line @param {number} from @param {number} to */
  #line(line, from, to) {
    const drawn = element('div', 'line')
    drawn.role = 'row'
    drawn.setAttribute('aria-rowindex', String(line + 1 + (this.#head.hidden ? 0 : 1)))
    drawn.style.top = `${this.#top(line)}px`
    drawn.style.height = `${this.#high - GAP}px`
    if (this.#label) {
      const { text, note, first } = this.#shown.lines[line]
      const label = element('div', 'label')
      label.role = 'rowheader'
      label.style.width = `${this.#label}px`
      label.title = [text, note].filter(Boolean).join('\n')
      if (text) {
        const value = element('bdi', first ? 'value' : 'value again', text)
        label.append(value)
      }
      if (note) label.append(element('bdi', 'note', note))
      if (first && line > 0) drawn.classList.add('first')
      drawn.append(label)
    }
    for (let column = from; column <= to; column++) {
      const run = this.#runAt(line, column)
      if (run) drawn.append(this.#cell(run, line, column))
      else if (this.#shown.table) drawn.append(this.#place(element('div', 'cell none'), column))
    }
    return drawn
  }

  /** @param {HTMLElement} cell @param {number} column */
  #place(cell, column) {
    cell.role = 'gridcell'
    cell.setAttribute('aria-colindex', String(column + 1 + (this.#label ? 1 : 0)))
    cell.style.left = `${this.#left(column)}px`
    cell.style.width = `${this.#width}px`
    return cell
  }

  /** @param {Run} run @param {number} line @param {number} column */
  #cell(run, line, column) {
    const decided = this.keeps.of(run.row)
    const cell = this.#place(element('div', 'cell'), column)
    cell.classList.add(run.state === 'succeeded' ? 'good' : run.state === 'missing' ? 'missing' : 'bad')
    if (decided) cell.classList.add(decided)
    if (this.picked?.row === run.row) cell.classList.add('picked')
    cell.id = `cell-${run.row}`
    cell.dataset.row = String(run.row)
    cell.dataset.line = String(line)
    cell.dataset.column = String(column)
    const said = [this.batch.about(run), stateText(run.state)]
    if (decided) said.push(decided === 'keep' ? 'kept' : 'rejected')
    if (run.error) said.push(run.error.message)
    cell.setAttribute('aria-label', said.join(', '))
    const picture = element('div', 'picture')
    picture.style.height = `${this.#picture}px`
    picture.append(...this.#look(run))
    cell.append(picture)
    const more = run.outputs.length - 1
    if (more > 0) picture.append(element('span', 'more', `+${more}`))
    if (decided) picture.append(element('span', 'badge', decided === 'keep' ? '✓' : '✕'))
    if (run.state !== 'missing') picture.append(this.#buttons())
    if (!this.#shown.table) cell.append(this.#caption(run))
    return cell
  }

  #buttons() {
    const buttons = element('span', 'buttons')
    buttons.setAttribute('aria-hidden', 'true') // the keys and the large view have the same
    for (const [action, symbol, words] of [['keep', '✓', 'Keep (K)'], ['reject', '✕', 'Reject (X)'], ['compare', '⇄', 'Compare (C)']]) {
      const button = /** @type {HTMLButtonElement} */ (element('button', action, symbol))
      button.type = 'button'
      button.tabIndex = -1
      button.title = words
      button.dataset.action = action
      buttons.append(button)
    }
    return buttons
  }

  /** @param {Run} run */
  #caption(run) {
    const meta = []
    if (run.seconds !== null) meta.push(duration(run.seconds))
    if (run.cost !== null) meta.push(dollars(run.cost))
    const caption = element('div', 'caption', element('bdi', 'about', this.batch.about(run)))
    if (meta.length) caption.append(element('span', 'meta', meta.join(' · ')))
    return caption
  }

  /** @param {Run} run @returns {Node[]} */
  #look(run) {
    const output = shownOutput(run, this.node)
    if (output) return this.#output(output)
    if (run.state === 'missing') return [element('span', 'tile', 'Not run yet')]
    if (run.error || run.state !== 'succeeded') {
      const tile = element('span', 'tile', element('b', '', stateText(run.state)))
      if (run.error) tile.append(element('bdi', 'why', run.error.message || run.error.code))
      return [tile]
    }
    return [element('span', 'tile', this.node === null ? 'No output' : 'No output of this node')]
  }

  /** @param {Output} output @returns {Node[]} */
  #output(output) {
    const address = small(output)
    if (address) {
      const picture = document.createElement('img')
      picture.alt = ''
      picture.decoding = 'async'
      picture.draggable = false
      picture.addEventListener('error', () => picture.replaceWith(tile(output, 'The file is not here.')), { once: true })
      picture.src = address
      return [picture]
    }
    if (output.kind === 'video' && output.opens) {
      const video = document.createElement('video')
      video.muted = video.loop = video.playsInline = true
      video.preload = 'metadata'
      video.tabIndex = -1
      video.src = `${beside(output.file)}#t=0.001`
      video.addEventListener('error', () => video.replaceWith(tile(output, '')), { once: true })
      const around = element('span', 'film', video, element('span', 'play', '▶'))
      around.addEventListener('pointerenter', () => void video.play().catch(() => {}))
      around.addEventListener('pointerleave', () => video.pause())
      return [around]
    }
    if (output.kind === 'text') return [element('bdi', 'tile text', (output.text ?? '').slice(0, 600))]
    return [tile(output, output.why ?? '')]
  }

  // -- Focus ------------------------------------------------------------------------------------

  #mark() {
    for (const cell of this.#canvas.querySelectorAll('.current')) cell.classList.remove('current')
    const run = this.current
    const cell = run && this.#canvas.querySelector(`[data-row="${run.row}"]`)
    if (cell) {
      cell.classList.add('current')
      this.#box.setAttribute('aria-activedescendant', cell.id)
    } else {
      this.#box.removeAttribute('aria-activedescendant')
    }
  }

  /** @param {number} line @param {number} column @param {boolean} scroll */
  #go(line, column, scroll) {
    this.#at = { line, column }
    if (scroll) {
      const box = this.#box
      const [top, left] = [this.#top(line), this.#left(column)]
      if (top - this.#headHigh < box.scrollTop) box.scrollTop = Math.max(0, top - this.#headHigh)
      else if (top + this.#high > box.scrollTop + box.clientHeight) box.scrollTop = top + this.#high - box.clientHeight
      if (left - this.#label - GAP < box.scrollLeft) box.scrollLeft = Math.max(0, left - this.#label - GAP)
      else if (left + this.#across > box.scrollLeft + box.clientWidth) box.scrollLeft = left + this.#across - box.clientWidth
      this.#draw()
    } else {
      this.#mark()
    }
  }

  /** @param {number} down @param {number} right */
  #next(down, right) {
    let { line, column } = this.#at
    const columns = this.#shown.table ? this.#shown.columns.length : this.#perLine
    for (;;) {
      line += down
      column += right
      if (column < 0) [line, column] = [line - 1, columns - 1]
      if (column >= columns) [line, column] = [line + 1, 0]
      if (line < 0 || line >= this.#count) return null
      if (this.#runAt(line, column)) return { line, column }
    }
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    const run = this.current
    const page = Math.max(1, Math.floor(this.#box.clientHeight / this.#high) - 1)
    const moves = /** @type {Record<string, () => unknown>} */ ({
      ArrowLeft: () => this.step(0, -1),
      ArrowRight: () => this.step(0, 1),
      ArrowUp: () => this.step(-1, 0),
      ArrowDown: () => this.step(1, 0),
      PageUp: () => { for (let n = 0; n < page; n++) this.step(-1, 0) },
      PageDown: () => { for (let n = 0; n < page; n++) this.step(1, 0) },
      Home: () => this.#shown.runs.length && this.focusRun(this.#shown.runs[0]),
      End: () => this.#shown.runs.length && this.focusRun(this.#shown.runs[this.#shown.runs.length - 1]),
      Enter: () => run && this.actions.open(run),
      ' ': () => run && this.actions.open(run),
      k: () => run && this.actions.decide(run, 'keep'),
      x: () => run && this.actions.decide(run, 'reject'),
      c: () => run && this.actions.compare(run),
      u: () => run && this.actions.use(run)
    })
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key
    if (!Object.hasOwn(moves, name)) return
    event.preventDefault()
    moves[name]()
  }

  /** @param {MouseEvent} event */
  #clicked(event) {
    const target = /** @type {HTMLElement} */ (event.target)
    const cell = /** @type {HTMLElement | null} */ (target.closest('[data-row]'))
    const run = cell && this.batch.byRow.get(Number(cell.dataset.row))
    if (!cell || !run) return
    this.#go(Number(cell.dataset.line), Number(cell.dataset.column), false)
    const action = /** @type {HTMLElement | null} */ (target.closest('[data-action]'))?.dataset.action
    if (action === 'keep' || action === 'reject') this.actions.decide(run, action)
    else if (action === 'compare' || (this.picked && this.picked !== run)) this.actions.compare(run)
    else this.actions.open(run)
  }
}

/** @param {Output} output @param {string} why */
function tile(output, why) {
  const suffix = baseName(output.file).split('.').pop() ?? ''
  const symbol = element('span', 'symbol', SYMBOLS[/** @type {keyof typeof SYMBOLS} */ (output.kind)] ?? SYMBOLS.file)
  symbol.ariaHidden = 'true'
  const made = element('span', 'tile', symbol, element('b', '', suffix.toUpperCase().slice(0, 8)))
  if (why) made.append(element('bdi', 'why', why))
  return made
}
