// @ts-check
/** The large view of one run, with what is known of it; and the comparison of two. */

import { needsNewPowershell } from './quoting.js'
import { baseName, beside, save, shownOutput, small } from './files.js'
import { Stage } from './stage.js'
import { byId, dollars, duration, element, size, stateText, valueText } from './words.js'

/** @import { Batch, Output, Run } from './batch.js' */
/** @import { Grid } from './grid.js' */
/** @import { Decision, Keeps } from './keeps.js' */
/** @import { Mode } from './stage.js' */

export class Viewer {
  #dialog = /** @type {HTMLDialogElement} */ (byId('viewer'))
  #stage = new Stage(byId('stage'))
  /** One run, or the two that are compared. @type {Run[]} */
  #runs = []
  #output = 0
  /** @type {Mode} */
  #mode = 'side'

  /**
   * @param {Batch} batch
   * @param {Grid} grid
   * @param {Keeps} keeps
   * @param {{ decide: (run: Run, decision: Decision) => void, say: (said: string, bad?: boolean) => void }} actions
   */
  constructor(batch, grid, keeps, actions) {
    this.batch = batch
    this.grid = grid
    this.keeps = keeps
    this.actions = actions
    this.#dialog.addEventListener('close', () => this.#closed())
    this.#dialog.addEventListener('keydown', (event) => this.#key(event))
    byId('close').addEventListener('click', () => this.#dialog.close())
    byId('previous').addEventListener('click', () => this.#step(0, -1))
    byId('next').addEventListener('click', () => this.#step(0, 1))
    byId('fit').addEventListener('click', () => this.#stage.fit())
    byId('actual').addEventListener('click', () => this.#stage.actual())
    byId('mode').addEventListener('click', () => this.#switch())
    byId('compare').addEventListener('click', () => {
      const run = this.#runs[0]
      this.#dialog.close()
      this.compare(run)
    })
  }

  get open() {
    return this.#dialog.open
  }

  /**
   * @param {Run} run
   * @param {boolean} [use]  Whether to go to its values at once.
   */
  show(run, use = false) {
    this.#runs = [run]
    this.#output = Math.max(0, run.outputs.indexOf(/** @type {Output} */ (shownOutput(run, this.grid.node))))
    this.#stage.fit()
    this.#draw()
    this.#opened()
    if (use) document.getElementById('copy')?.focus()
  }

  /**
   * Pick a run; the second one opens the comparison.
   * @param {Run} run
   */
  compare(run) {
    const picked = this.grid.picked
    if (picked && picked.row !== run.row) {
      this.#pick(null)
      this.#runs = [picked, run]
      this.#stage.fit()
      this.#draw()
      this.#opened()
      return
    }
    this.#pick(picked ? null : run)
    if (!picked) this.actions.say('Choose a second one: click it, or press C on it. Esc: do not compare.')
  }

  /** Forget the first one of a comparison. @returns {boolean} */
  unpick() {
    const picked = this.grid.picked !== null
    this.#pick(null)
    return picked
  }

  /** Show again what a decision has changed. */
  update() {
    if (this.#dialog.open) this.#drawFacts()
  }

  // ---------------------------------------------------------------------------------------------

  /** @param {Run | null} run */
  #pick(run) {
    const before = this.grid.picked
    this.grid.picked = run
    for (const one of [before, run]) if (one) this.grid.update(one)
    if (!run) this.actions.say('')
  }

  #opened() {
    if (this.#dialog.open) return
    this.#dialog.showModal()
    byId('viewer-title').focus()
  }

  #closed() {
    this.#stage.clear()
    const run = this.#runs[this.#runs.length - 1]
    if (run) this.grid.focusRun(run)
    byId('sheet').focus({ preventScroll: true })
  }

  #switch() {
    this.#mode = this.#mode === 'side' ? 'slider' : 'side'
    this.#draw()
  }

  get #both() {
    return this.#runs.length === 2
  }

  #draw() {
    const outputs = this.#both ? this.#runs.map((run) => shownOutput(run, this.grid.node)) : [this.#runs[0].outputs[this.#output]]
    this.#stage.show(outputs.map((output, index) => output ?? without(this.#runs[index])), this.#both ? this.#mode : 'one')
    this.#drawFacts()
  }

  #drawFacts() {
    const [run] = this.#runs
    const common = this.#both ? this.batch.varying.filter((axis) => this.#runs[0].at[axis] === this.#runs[1].at[axis]) : undefined
    const title = common?.length === 0 ? 'Two runs' : this.batch.about(run, common)
    byId('viewer-title').replaceChildren(element('bdi', '', title))
    byId('mode').hidden = !this.#both
    byId('mode').textContent = this.#mode === 'side' ? 'Slider' : 'Side by side'
    byId('compare').hidden = this.#both
    const picture = (/** @type {Output | undefined} */ output) => output?.kind === 'image'
    const zooms = this.#both || picture(run.outputs[this.#output])
    byId('fit').hidden = byId('actual').hidden = !zooms
    this.#dialog.classList.toggle('both', this.#both)
    const focused = /** @type {HTMLElement | null} */ (document.activeElement)?.dataset.again
    byId('facts').replaceChildren(...(this.#both ? this.#runs.map((one) => this.#side(one)) : this.#facts(run)))
    if (focused) /** @type {HTMLElement | null} */ (byId('facts').querySelector(`[data-again="${focused}"]`))?.focus()
    this.#strip()
  }

  #strip() {
    const strip = byId('strip')
    const { outputs } = this.#runs[0]
    strip.hidden = this.#both || outputs.length < 2
    if (strip.hidden) return strip.replaceChildren()
    strip.replaceChildren(
      ...outputs.map((output, index) => {
        const button = /** @type {HTMLButtonElement} */ (element('button'))
        button.type = 'button'
        button.title = this.#named(output)
        button.ariaLabel = `Output ${index + 1} of ${outputs.length}: ${this.#named(output)}`
        button.ariaPressed = String(index === this.#output)
        const address = small(output)
        if (address) {
          const picture = document.createElement('img')
          picture.alt = ''
          picture.src = address
          button.append(picture)
        } else button.append(baseName(output.file).split('.').pop() || output.kind)
        button.addEventListener('click', () => this.#turn(index))
        return button
      })
    )
  }

  /** @param {number} index */
  #turn(index) {
    const count = this.#runs[0].outputs.length
    if (this.#both || count < 2) return
    this.#output = (index + count) % count
    this.#draw()
  }

  /** @param {Output} output */
  #named(output) {
    const title = output.node === null ? undefined : this.batch.data.titles[output.node]
    return [baseName(output.file) || 'Text', title].filter(Boolean).join(' – ')
  }

  /** @param {Run} run */
  #decisions(run) {
    const bar = element('div', 'decisions')
    const decided = this.keeps.of(run.row)
    for (const [decision, words] of /** @type {[Decision, string][]} */ ([['keep', '✓ Keep'], ['reject', '✕ Reject']])) {
      const button = /** @type {HTMLButtonElement} */ (element('button', decision, words))
      button.type = 'button'
      button.dataset.again = `${decision}-${run.row}`
      button.ariaPressed = String(decided === decision)
      button.addEventListener('click', () => this.actions.decide(run, decision))
      bar.append(button)
    }
    return bar
  }

  /** One of two runs. @param {Run} run */
  #side(run) {
    const [one, other] = this.#runs
    const differing = this.batch.varying.filter((axis) => one.at[axis] !== other.at[axis])
    return element('section', 'side', element('h3', '', element('bdi', '', this.batch.about(run, differing))), this.#said(run), this.#decisions(run))
  }

  /** @param {Run} run */
  #said(run) {
    const said = [stateText(run.state)]
    if (run.attempt > 1) said.push(`attempt ${run.attempt}`)
    if (run.seconds !== null) said.push(duration(run.seconds))
    if (run.cost !== null) said.push(dollars(run.cost))
    if (run.target) said.push(`on ${run.target}`)
    return element('p', 'said', element('bdi', '', said.join(' · ')))
  }

  /** @param {Run} run */
  #facts(run) {
    const parts = [this.#decisions(run), this.#said(run)]
    if (run.error) {
      const error = element('div', 'error', element('bdi', '', run.error.message || run.error.code))
      if (run.error.advice) error.append(element('bdi', 'advice', run.error.advice))
      parts.push(error)
    }
    for (const problem of run.problems) parts.push(element('div', 'error', element('bdi', '', problem)))
    const values = element('dl', 'values')
    const named = Object.entries(run.values)
    if (run.seed !== null && !named.some(([name]) => /(^|\.)(noise_)?seed$/.test(name))) named.push(['seed', run.seed])
    for (const [name, value] of named) {
      const term = element('dt', '', this.batch.short.get(name) ?? name)
      term.title = name
      values.append(element('div', '', term, element('dd', '', element('bdi', '', valueText(value)))))
    }
    parts.push(values)
    const files = run.outputs.filter((output) => output.file)
    if (files.length) parts.push(this.#files(files))
    parts.push(this.#use(run))
    return parts
  }

  /** @param {Output[]} outputs */
  #files(outputs) {
    const list = element('ul', 'files')
    for (const output of outputs) {
      const line = element('li')
      if (output.opens) {
        const link = /** @type {HTMLAnchorElement} */ (element('a', '', element('bdi', '', baseName(output.file))))
        link.href = beside(output.file)
        link.target = '_blank'
        link.rel = 'noopener noreferrer'
        line.append(link)
      } else line.append(element('bdi', '', baseName(output.file)))
      const about = [output.width ? `${output.width} × ${output.height}` : '', output.size ? size(output.size) : '']
      const title = output.node === null ? '' : (this.batch.data.titles[output.node] ?? '')
      line.append(element('span', 'note', [...about, title].filter(Boolean).join(' · ')))
      list.append(line)
    }
    return element('section', '', element('h3', '', 'Files'), list)
  }

  /** @param {Run} run */
  #use(run) {
    const section = element('section', 'use', element('h3', '', 'Use these values'))
    const tab = new URLSearchParams(location.hash.slice(1)).get('tab')
    if (this.batch.data.in_comfyui && tab) {
      const button = /** @type {HTMLButtonElement} */ (element('button', 'primary', 'Put them into the graph'))
      button.type = 'button'
      button.id = 'use-in-graph'
      button.addEventListener('click', () => {
        // Heard by the tab of ComfyUI that has opened this one: see node_pack/web/batch_list.js.
        new BroadcastChannel('comfy-remote-sheet').postMessage({ tab, batch: this.batch.data.id, row: run.row })
        this.actions.say('Its values are in the graph, in ComfyUI\u2019s tab.')
      })
      section.append(element('div', 'bar', button))
    }
    const { posix, powershell, words } = this.batch.commandLines(run)
    if (this.batch.data.command.length) {
      const shells = /** @type {HTMLSelectElement} */ (element('select'))
      shells.ariaLabel = 'The shell that the command is for'
      shells.append(new Option('bash, zsh', 'posix'), new Option('PowerShell', 'powershell'))
      shells.value = /win/i.test(navigator.platform) && !/darwin/i.test(navigator.platform) ? 'powershell' : 'posix'
      const line = element('code', 'command')
      line.id = 'command'
      line.dir = 'ltr'
      const note = element('p', 'note')
      const draw = () => {
        const quoted = shells.value === 'posix' ? posix : powershell
        line.replaceChildren(...quoted.flatMap((word, index) => [index ? ' ' : '', element('span', '', word)]))
        note.textContent = 'It needs PowerShell 7.3 or later: earlier ones lose quotation marks within a value.'
        note.hidden = shells.value === 'posix' || !needsNewPowershell(words)
      }
      shells.addEventListener('change', draw)
      draw()
      const copy = /** @type {HTMLButtonElement} */ (element('button', 'primary', 'Copy the command'))
      copy.type = 'button'
      copy.id = 'copy'
      copy.addEventListener('click', () => void this.#copy(line))
      section.append(line, element('div', 'bar', copy, shells), note)
    }
    if (Object.keys(this.batch.data.prompt).length) {
      const button = /** @type {HTMLButtonElement} */ (element('button', '', 'Save the workflow'))
      button.type = 'button'
      button.id = 'save-workflow'
      button.addEventListener('click', () => {
        save(`${fileName(this.batch.data.name)}-${run.row + 1}.json`, JSON.stringify(this.batch.workflow(run), null, 2))
      })
      section.append(element('div', 'bar', button, element('span', 'note', 'with these values; drag the file into ComfyUI')))
    }
    return section
  }

  /** @param {HTMLElement} line */
  async #copy(line) {
    const text = line.textContent ?? ''
    try {
      await navigator.clipboard.writeText(text)
    } catch {
      // Without the right to write: what is marked can be copied.
      getSelection()?.selectAllChildren(line)
      if (!document.execCommand('copy')) {
        this.actions.say('Press Ctrl+C to copy what is marked.')
        return
      }
    }
    this.actions.say('Copied.')
  }

  /** @param {number} down @param {number} right @returns {void} */
  #step(down, right) {
    const run = this.grid.step(down, right)
    if (!run) return
    if (this.#both) {
      if (run.row === this.#runs[0].row) return this.#step(down, right)
      this.#runs = [this.#runs[0], run]
      this.#draw()
      return
    }
    this.show(run)
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return
    const target = /** @type {HTMLElement} */ (event.target)
    if (target.closest('input, select, video, audio') && event.key !== 'Escape') return
    const run = this.#runs[this.#runs.length - 1]
    const keys = /** @type {Record<string, () => unknown>} */ ({
      ArrowLeft: () => this.#step(0, -1),
      ArrowRight: () => this.#step(0, 1),
      ArrowUp: () => this.#step(-1, 0),
      ArrowDown: () => this.#step(1, 0),
      k: () => this.actions.decide(run, 'keep'),
      x: () => this.actions.decide(run, 'reject'),
      c: () => !this.#both && byId('compare').click(),
      u: () => document.getElementById('copy')?.focus(),
      s: () => this.#both && this.#switch(),
      n: () => this.#turn(this.#output + 1),
      p: () => this.#turn(this.#output - 1),
      0: () => this.#stage.fit(),
      1: () => this.#stage.actual(),
      '+': () => this.#stage.zoomBy(1.5),
      '=': () => this.#stage.zoomBy(1.5),
      '-': () => this.#stage.zoomBy(1 / 1.5)
    })
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key
    if (!Object.hasOwn(keys, name)) return
    event.preventDefault()
    event.stopPropagation()
    keys[name]()
  }
}

/** What stands instead of an output. @param {Run} run */
function without(run) {
  const why = run.error?.message || run.error?.code || (run.state === 'succeeded' ? 'no output' : '')
  return [stateText(run.state), why].filter(Boolean).join(': ')
}

/** @param {string} name */
function fileName(name) {
  return name.replace(/\.json$/i, '').replace(/[^\p{L}\p{N}_-]+/gu, '_').slice(0, 60) || 'workflow'
}
