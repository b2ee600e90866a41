// @ts-check
/** A table that changes only where its rows do, so that focus and selection stay. */

/**
 * What a cell shows: a text, a second line, a colour; a bar instead of a text.
 * @typedef {{ text: string, note?: string, tone?: string, bar?: number | null }} Cell
 */

/**
 * @template T
 * @typedef {object} Column
 * @property {string} label
 * @property {(row: T) => Cell} cell
 * @property {string} [kind]  A class of its cells.
 */

/**
 * @template T
 * @typedef {object} Action
 * @property {(row: T) => string | null} label  Null where there is nothing to do.
 * @property {(row: T) => string} about  What it acts on, for those who do not see the row.
 * @property {(row: T) => Promise<void>} run
 */

/**
 * @template {{ id: string }} T
 */
export class Table {
  /** @type {Map<string, Row<T>>} */
  #rows = new Map()
  #body = document.createElement('tbody')
  #table
  #columns
  #actions
  #none

  /**
   * @param {HTMLElement} table
   * @param {HTMLElement} none  What is shown instead of a table without rows.
   * @param {Column<T>[]} columns
   * @param {Action<T>[]} actions
   */
  constructor(table, none, columns, actions) {
    this.#table = table
    this.#none = none
    this.#columns = columns
    this.#actions = actions
    const [head, row] = [document.createElement('thead'), document.createElement('tr')]
    row.append(...columns.map((column) => heading(column.label)))
    if (actions.length) row.append(heading('Actions', 'unseen'))
    head.append(row)
    table.append(head, this.#body)
  }

  /** @param {T[]} items */
  show(items) {
    this.#table.hidden = !items.length
    this.#none.hidden = Boolean(items.length)
    const there = new Set(items.map((item) => item.id))
    for (const [id, row] of this.#rows) {
      if (there.has(id)) continue
      if (row.element.contains(document.activeElement)) nextFocus(row.element)?.focus()
      row.element.remove()
      this.#rows.delete(id)
    }
    items.forEach((item, index) => {
      let row = this.#rows.get(item.id)
      if (row === undefined) {
        row = new Row(this.#columns, this.#actions, item)
        this.#rows.set(item.id, row)
      }
      row.show(item)
      if (this.#body.children[index] !== row.element) {
        this.#body.insertBefore(row.element, this.#body.children[index] ?? null)
      }
    })
  }
}

/** @template T */
class Row {
  element = document.createElement('tr')
  #columns
  #actions
  #item
  /** @type {HTMLElement[]} */
  #cells = []
  /** @type {HTMLButtonElement[]} */
  #buttons = []

  /**
   * @param {Column<T>[]} columns
   * @param {Action<T>[]} actions
   * @param {T} item
   */
  constructor(columns, actions, item) {
    this.#columns = columns
    this.#actions = actions
    this.#item = item
    for (const column of columns) {
      const cell = document.createElement('td')
      cell.dataset.label = column.label
      cell.className = column.kind ?? ''
      cell.append(document.createElement('span'), document.createElement('span'))
      this.#cells.push(cell)
    }
    this.element.append(...this.#cells)
    if (!actions.length) return
    const last = document.createElement('td')
    last.className = 'actions'
    last.dataset.label = ''
    for (const action of actions) {
      const button = document.createElement('button')
      button.type = 'button'
      let busy = false // and not `disabled`, which would take the focus away
      button.addEventListener('click', async () => {
        if (busy) return
        busy = true
        button.setAttribute('aria-busy', 'true')
        try {
          await action.run(this.#item)
        } finally {
          busy = false
          button.removeAttribute('aria-busy')
        }
      })
      this.#buttons.push(button)
    }
    last.append(...this.#buttons)
    this.element.append(last)
  }

  /** @param {T} item */
  show(item) {
    this.#item = item
    this.#columns.forEach((column, index) => fill(this.#cells[index], column.cell(item)))
    this.#actions.forEach((action, index) => {
      const label = action.label(item)
      const button = this.#buttons[index]
      button.hidden = label === null
      if (label !== null) {
        write(button, label)
        button.setAttribute('aria-label', `${label}: ${action.about(item)}`)
      }
    })
  }
}

/** @param {string} words  @param {string} [kind] */
function heading(words, kind = '') {
  const cell = document.createElement('th')
  const text = document.createElement('span')
  cell.scope = 'col'
  text.className = kind
  text.textContent = words
  cell.append(text)
  return cell
}

/**
 * @param {HTMLElement} cell
 * @param {Cell} content
 */
function fill(cell, content) {
  const [main, note] = /** @type {HTMLCollectionOf<HTMLElement>} */ (cell.children)
  cell.classList.toggle('empty', !content.text && !content.note && content.bar === undefined)
  if (content.bar !== undefined && content.bar !== null) {
    let bar = main.querySelector('progress')
    if (bar === null) {
      bar = document.createElement('progress')
      main.replaceChildren(bar)
    }
    bar.value = content.bar
    bar.setAttribute('aria-label', content.text)
    write(note, content.text)
    note.className = 'note'
    return
  }
  write(main, content.text)
  main.className = content.tone ?? ''
  main.hidden = !content.text
  write(note, content.note ?? '')
  note.className = 'note'
  note.hidden = !content.note
}

/**
 * @param {HTMLElement} element
 * @param {string} text
 */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/** @param {Element} row  @returns {HTMLElement | null} */
function nextFocus(row) {
  const near = row.nextElementSibling ?? row.previousElementSibling
  return near?.querySelector('button:not([hidden])') ?? row.closest('section')?.querySelector('h2') ?? null
}
