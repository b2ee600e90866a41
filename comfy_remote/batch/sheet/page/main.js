// @ts-check
/** The sheet of a batch: what is chosen in its bars decides which runs stand where. */

import { arrange, counts } from './arrange.js'
import { Batch } from './batch.js'
import { save } from './files.js'
import { Grid } from './grid.js'
import { Keeps } from './keeps.js'
import { Viewer } from './viewer.js'
import { byId, counted, dollars, duration, element, stateText } from './words.js'

/** @import { Choices } from './arrange.js' */
/** @import { Data, Run } from './batch.js' */
/** @import { Decision } from './keeps.js' */

const NONE = 'none'
const EVERY_MS = 3000

/** @param {string} id */
const select = (id) => /** @type {HTMLSelectElement} */ (byId(id))
/** @param {string} id */
const input = (id) => /** @type {HTMLInputElement} */ (byId(id))

class Sheet {
  /** @type {Choices} */
  #choices

  /** @param {Data} data */
  constructor(data) {
    const say = this.#say.bind(this)
    this.batch = new Batch(data)
    this.keeps = new Keeps(data.id, data.keeps, data.served, say)
    /** @type {Choices} */
    this.#choices = { ...this.#firstChoices(), show: 'all', words: '' }
    this.grid = new Grid(byId('sheet'), this.batch, this.keeps, {
      open: (run) => this.viewer.show(run),
      use: (run) => this.viewer.show(run, true),
      compare: (run) => this.viewer.compare(run),
      decide: (run, decision) => this.#decide(run, decision)
    })
    this.viewer = new Viewer(this.batch, this.grid, this.keeps, {
      decide: (run, decision) => this.#decide(run, decision),
      say
    })
    input('size').value = String(this.#fittingSize())
    this.#listen()
    this.#bars()
    this.#show()
    byId('sheet').focus({ preventScroll: true })
  }

  /** What has come since. @param {Data} data */
  update(data) {
    const before = this.batch
    this.batch = new Batch(data)
    // An axis may have got values in between: what is chosen keeps its meaning only by name.
    const same = JSON.stringify(before.axes) === JSON.stringify(this.batch.axes)
    if (!same && before.axes.length !== this.batch.axes.length) Object.assign(this.#choices, this.#firstChoices())
    else if (!same) this.#choices.only.clear()
    this.grid.batch = this.viewer.batch = this.batch
    this.#bars()
    this.#show()
  }

  // -- What is chosen -----------------------------------------------------------------------------

  /** @returns {Omit<Choices, 'show' | 'words'>} */
  #firstChoices() {
    const { rows, columns } = this.batch.data.view
    return { rows, columns, only: new Map(), sort: 'row', down: false }
  }

  /** All columns side by side, if they are not too small so. */
  #fittingSize() {
    const { columns } = this.#choices
    const width = byId('sheet').clientWidth
    if (columns === null) return width < 600 ? 150 : 208
    const count = this.batch.axes[columns].values.length
    const room = (width - Math.min(180, Math.max(84, width * 0.16)) - 24) / count - 10
    return Math.round(Math.min(320, Math.max(width < 600 ? 108 : 120, room)))
  }

  #listen() {
    select('rows').addEventListener('change', () => this.#axis('rows'))
    select('columns').addEventListener('change', () => this.#axis('columns'))
    byId('swap').addEventListener('click', () => {
      const { rows, columns } = this.#choices
      Object.assign(this.#choices, { rows: columns, columns: rows })
      this.#bars()
      this.#show()
    })
    select('sort').addEventListener('change', () => {
      this.#choices.sort = select('sort').value
      this.#show()
    })
    byId('down').addEventListener('click', () => {
      this.#choices.down = !this.#choices.down
      this.#bars()
      this.#show()
    })
    select('node').addEventListener('change', () => {
      const { value } = select('node')
      this.grid.node = value === NONE ? null : value.slice(1)
      this.#show()
    })
    input('words').addEventListener('input', () => {
      this.#choices.words = input('words').value
      this.#show()
    })
    input('size').addEventListener('input', () => this.grid.show(undefined, { size: Number(input('size').value) }))
    byId('choices').addEventListener('submit', (event) => event.preventDefault())
    byId('reset').addEventListener('click', () => {
      Object.assign(this.#choices, { show: 'all', words: '', only: new Map() })
      input('words').value = ''
      this.#bars()
      this.#show()
    })
    byId('export').addEventListener('click', () => save('keeps.json', `${JSON.stringify(this.keeps)}\n`))
    const help = /** @type {HTMLDialogElement} */ (byId('help'))
    byId('keys').addEventListener('click', () => help.showModal())
    document.addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return
      if (/** @type {HTMLElement} */ (event.target).closest('input, select, dialog[open] textarea')) return
      if (event.key === '?' && !help.open) help.showModal()
      else if (event.key === '/' && !this.viewer.open) {
        event.preventDefault()
        input('words').focus()
      } else if (event.key === 'Escape' && !this.viewer.open) this.viewer.unpick()
    })
    const narrow = matchMedia('(width < 50rem)')
    const fold = () => (/** @type {HTMLDetailsElement} */ (byId('tools')).open = !narrow.matches)
    narrow.addEventListener('change', fold)
    fold()
  }

  /** @param {'rows' | 'columns'} which */
  #axis(which) {
    const { value } = select(which)
    const axis = value === NONE ? null : Number(value)
    const other = which === 'rows' ? 'columns' : 'rows'
    if (axis !== null && this.#choices[other] === axis) this.#choices[other] = this.#choices[which]
    this.#choices[which] = axis
    if (axis !== null) this.#choices.only.delete(axis)
    this.#bars()
    this.#show()
  }

  /** @param {Run} run @param {Decision} decision */
  #decide(run, decision) {
    if (run.state === 'missing') return
    this.keeps.toggle(run.row, decision)
    this.grid.update(run)
    this.viewer.update()
    this.#shows()
  }

  // -- What is seen -------------------------------------------------------------------------------

  #show() {
    const arrangement = arrange(this.batch, this.#choices, this.keeps)
    byId('none').hidden = arrangement.runs.length > 0
    byId('sheet').hidden = !arrangement.runs.length
    this.grid.show(arrangement, { size: Number(input('size').value), aspect: aspectOf(this.batch, this.grid.node) })
  }

  #bars() {
    const { data } = this.batch
    document.title = data.name
    byId('name').textContent = data.name
    byId('about').replaceChildren(element('bdi', '', this.#summary()))
    byId('notes').hidden = !data.notes.length
    byId('notes').replaceChildren(...data.notes.map((note) => element('p', '', element('bdi', '', note))))
    byId('export').hidden = data.served
    this.#axes()
    this.#shows()
  }

  #summary() {
    const { data, runs } = this.batch
    const began = data.runs.length
    const said = [began < data.count ? `${began.toLocaleString('en')} of ${counted(data.count, 'run')}` : counted(data.count, 'run')]
    const costs = data.runs.filter((run) => run.cost !== null)
    const seconds = runs.reduce((sum, run) => sum + (run.seconds ?? 0), 0)
    if (seconds) said.push(`${duration(seconds)} in all`)
    if (costs.length) said.push(`about ${dollars(costs.reduce((sum, run) => sum + (run.cost ?? 0), 0))}`)
    if (data.workflow) said.push(data.workflow)
    if (data.target) said.push(`on ${data.target}`)
    if (data.created) said.push(data.created.slice(0, 10))
    return said.join(' · ')
  }

  #axes() {
    const { batch } = this
    const { rows, columns, only } = this.#choices
    const named = batch.varying.map((axis) => new Option(batch.axisName(axis), String(axis)))
    const plain = batch.varying.length < 1
    for (const [id, chosen] of /** @type {const} */ ([['rows', rows], ['columns', columns]])) {
      select(id).replaceChildren(new Option('–', NONE), ...named.map((option) => new Option(option.text, option.value)))
      select(id).value = chosen === null ? NONE : String(chosen)
      const label = /** @type {HTMLElement} */ (select(id).parentElement)
      label.hidden = plain
    }
    byId('swap').hidden = plain
    const others = batch.varying.filter((axis) => axis !== rows && axis !== columns)
    byId('others').replaceChildren(
      ...others.map((axis) => {
        const made = /** @type {HTMLSelectElement} */ (element('select'))
        made.append(new Option('all', NONE))
        batch.axes[axis].values.slice(0, 1000).forEach((_, index) => {
          made.append(new Option(clipped(batch.axisValue(axis, index)), String(index)))
        })
        made.value = only.has(axis) ? String(only.get(axis)) : NONE
        made.addEventListener('change', () => {
          if (made.value === NONE) only.delete(axis)
          else only.set(axis, Number(made.value))
          this.#show()
        })
        return element('label', '', element('bdi', '', batch.axisName(axis)), ' ', made)
      })
    )
    const table = rows !== null || columns !== null
    byId('sorts').hidden = byId('down').hidden = table
    select('sort').replaceChildren(
      new Option('in the order of the batch', 'row'),
      ...batch.varying.map((axis) => new Option(`by ${batch.axisName(axis)}`, `axis:${axis}`)),
      new Option('by time', 'seconds'),
      new Option('by cost', 'cost'),
      new Option('by state', 'state')
    )
    select('sort').value = this.#choices.sort
    byId('down').textContent = this.#choices.down ? '↓' : '↑'
    byId('down').ariaPressed = String(this.#choices.down)
    byId('nodes').hidden = batch.nodes.length < 2
    const title = (/** @type {string} */ node) => batch.data.titles[node] ?? (node ? `node ${node}` : 'unknown node')
    select('node').replaceChildren(new Option('any', NONE), ...batch.nodes.map((node) => new Option(title(node), `=${node}`)))
    select('node').value = this.grid?.node === null || this.grid === undefined ? NONE : `=${this.grid.node}`
  }

  #shows() {
    const found = counts(this.batch, this.keeps)
    const order = ['is:succeeded', 'is:failed', 'is:cancelled', 'is:missing']
    const others = [...found.keys()].filter((name) => name.startsWith('is:') && !order.includes(name))
    const states = [...order.filter((name) => found.has(name)), ...others]
    const wanted = ['all', ...(states.length > 1 ? states : []), 'keep', 'reject', 'undecided']
    /** @type {Record<string, string>} */
    const words = { all: 'All', keep: 'Kept', reject: 'Rejected', undecided: 'Undecided' }
    const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.show
    byId('shows').replaceChildren(
      ...wanted.map((name) => {
        const label = Object.hasOwn(words, name) ? words[name] : stateText(name.slice(3))
        const button = /** @type {HTMLButtonElement} */ (
          element('button', name.replace('is:', 'is-').replace(/[^a-z-]/g, ''), element('bdi', '', label), ' ', element('b', '', (found.get(name) ?? 0).toLocaleString('en')))
        )
        button.type = 'button'
        button.dataset.show = name
        button.ariaPressed = String(this.#choices.show === name)
        button.addEventListener('click', () => {
          this.#choices.show = this.#choices.show === name ? 'all' : name
          this.#shows()
          this.#show()
        })
        return button
      })
    )
    if (this.batch.unknown) {
      byId('shows').append(element('span', 'note', `${this.batch.unknown.toLocaleString('en')} have not run yet`))
    }
    if (focused) /** @type {HTMLElement | null} */ (byId('shows').querySelector(`[data-show="${CSS.escape(focused)}"]`))?.focus()
  }

  /** @param {string} said @param {boolean} [bad] */
  #say(said, bad = false) {
    byId('said').textContent = said
    byId('said').classList.toggle('bad', bad)
  }
}

/** @param {string} text */
function clipped(text) {
  return text.length > 60 ? `${text.slice(0, 59)}…` : text
}

/**
 * Width by height of what most runs have made, so that it fills its place.
 * @param {Batch} batch
 * @param {string | null} node
 */
function aspectOf(batch, node) {
  /** @type {Map<number, number>} */
  const seen = new Map()
  for (const run of batch.runs) {
    for (const output of run.outputs) {
      if (!output.width || !output.height || (node !== null && (output.node ?? '') !== node)) continue
      const aspect = Math.round((output.width / output.height) * 20) / 20
      seen.set(aspect, (seen.get(aspect) ?? 0) + 1)
    }
  }
  const [most] = [...seen].sort((one, other) => other[1] - one[1])
  return most ? Math.min(2.4, Math.max(0.45, most[0])) : 4 / 3
}

/** What has come since, while somebody looks. @param {Sheet} sheet */
async function follow(sheet) {
  let mark = ''
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS))
    if (document.hidden) continue
    try {
      const answer = await fetch('data.json', { headers: mark ? { 'If-None-Match': mark } : {}, cache: 'no-store' })
      if (answer.status !== 200) continue
      const first = mark === ''
      mark = answer.headers.get('ETag') ?? ''
      const data = await answer.json()
      if (!first || data.runs.length !== sheet.batch.data.runs.length) sheet.update(data)
    } catch {
      // The server has ended: what is here stays.
    }
  }
}

async function start() {
  /** @type {Data} */
  const data = JSON.parse(byId('data').textContent ?? '')
  if (data.served) {
    const answer = await fetch('keeps.json', { cache: 'no-store' })
    if (answer.ok) data.keeps = await answer.json()
  }
  const sheet = new Sheet(data)
  if (data.served) void follow(sheet)
}

void start()
